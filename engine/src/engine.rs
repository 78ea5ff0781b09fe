//! The engine's life: set-up, giving up privilege, the threads, and the graceful end.
//!
//! Runs in a child of the keeper that shares its descriptor table. What must outlive it is recorded in the ledger as it is
//! made; a successor finds it there.

use crate::config::AddressKind;
use crate::control::{self, Control, ports::PortUse};
use crate::keeper::{Charge, Surroundings};
use crate::ledger::Ledger;
use crate::mesh;
use crate::privileges::{self, Identity};
use crate::setup::interfaces::{self, Opened};
use crate::setup::steering::{self, Steering};
use crate::setup::{arenas, inherit, sockets};
use crate::shard::host::{Attachment, ShardHost};
use crate::shard::options::Limits;
use crate::shard::routing::Routing;
use crate::shard::{Parts, Shard};
use crate::{admin::ShardInfo, divert, host};
use anyhow::{Context, Result, anyhow, bail};
use persona_channel::layout::SHARDS;
use persona_stack::{AddressMode, InterfaceConfig, PortId, Route, Stack};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// The engine as its keeper knows it.
pub struct Engine;

impl Charge for Engine {
    fn run(&self, surroundings: &Surroundings<'_>) -> Result<()> {
        run(surroundings).map_err(|error| {
            // Whatever step it was: one remedy.
            let out_of_descriptors = format!("(os error {})", libc::EMFILE);
            match format!("{error:#}") {
                sentence if sentence.contains(&out_of_descriptors) => anyhow!(
                    "{sentence}: {} open descriptors are too few, raise RLIMIT_NOFILE (LimitNOFILE= of the service)",
                    steering::descriptor_limit()
                ),
                _ => error,
            }
        })
    }

    fn hold(&self, ledger: &Ledger, deadline: Duration) {
        if let Err(error) = divert::hold_all(ledger, deadline) {
            tracing::error!("segments of live connections cannot be held back: {error}");
        }
    }

    fn manage_neighbour(&self, interface: u32, address: IpAddr) -> std::io::Result<()> {
        host::neighbour::manage(interface, address).map_err(std::io::Error::other)
    }
}

/// Runs until told to stop; says through the link when packets flow.
pub fn run(surroundings: &Surroundings<'_>) -> Result<()> {
    let Surroundings { config, place, ledger, link, predecessors } = *surroundings;
    raise_descriptor_limit();
    let processors = processors(&config.cpus)?;
    // Before the tables are read: a change in between is told then, and one that is told twice does no harm.
    let shares = config.interfaces.iter().any(|interface| interface.mode == AddressKind::Shared);
    let monitor = if shares { Some(host::Monitor::open()?) } else { None };
    let mut opened = interfaces::open(config, ledger, predecessors > 0)?;
    let queues = interfaces::least_queues(&opened);
    let shards = config.shards_on(processors.len(), queues);
    if shards > queues || shards > SHARDS {
        bail!(
            "{shards} shards need as many queues on every interface, and one has {queues}: lower \"shards\", or add \
             queues (ethtool -L)"
        );
    }
    let routes = routes(config, &opened)?;
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;

    let steering = Steering::new(&mut opened, link, ledger)?;
    let ports_used = Arc::new(PortUse::default());
    let interfaces: Vec<_> = opened.iter().map(|interface| interface.facts(shards)).collect();
    let configs: Vec<_> = opened.iter().map(Opened::config).collect();
    let tunables = config.sysctls.started(&config.sizes);
    let mut inherited = predecessors > 0;
    let (shard_links, control_links) = mesh::links(shards).context("cannot link the shards")?;
    let mut parts = Vec::new();
    for (shard, links) in shard_links.into_iter().enumerate() {
        let attachments = attachments(&mut opened, shard, shards);
        let routing = routing(&opened, &routes);
        let mut host = ShardHost::new(shard, attachments, routing, Arc::clone(&ports_used), &steering);
        if std::mem::take(&mut inherited) {
            // The first shard's ports serve: where a RST leaves does not matter to the peer.
            inherit::reset_connections(ledger, &mut host);
        }
        let mut stack = arenas::make(config, ledger, seed, shard, shards)?;
        introduce(&mut stack, &opened, &configs, &routes, config, &mut host)?;
        tunables.apply(&mut stack);
        parts.push(Parts { stack, host, links, limits: Limits::of(&tunables), seed, spin: config.spin });
    }
    let mut estates = Vec::new();
    if predecessors > 0 {
        estates = inherit::end_sessions(ledger);
        steering::drop_reservations(ledger);
    }
    let session_socket = sockets::session(place, ledger, &config.access)?;
    let admin_socket = sockets::admin(place, ledger)?;
    privileges::drop_to(Identity { uid: config.user.uid, gid: config.user.gid })?;
    // The kernel forgot it with the change of user.
    crate::keeper::die_with_keeper().context("cannot tie the engine to its keeper")?;
    steering.run()?;

    let result = std::thread::scope(|scope| {
        let (tids, started) = mpsc::channel();
        let mut threads = Vec::new();
        for (number, parts) in parts.into_iter().enumerate() {
            let processor = processors[number % processors.len()];
            let tids = tids.clone();
            let shard = Shard::new(parts).context("cannot set a shard up")?;
            let thread = std::thread::Builder::new().name(format!("persona-shard-{number}"));
            let thread = thread.spawn_scoped(scope, move || {
                let pinned = core_affinity::set_for_current(processor);
                let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
                let cpu = pinned.then_some(processor.id);
                let _ = tids.send((number, ShardInfo { tid, cpu }));
                run_or_die(|| shard.run());
            });
            threads.push(thread.context("cannot start a shard's thread")?);
        }
        let mut shards = vec![ShardInfo::default(); threads.len()];
        for (number, info) in started.iter().take(threads.len()) {
            shards[number] = info;
        }
        let control = Control::new(control::Parts {
            config,
            tunables,
            ledger,
            links: control_links,
            session_socket,
            admin_socket,
            stop: link.stop(),
            hooks: &steering,
            monitor,
            estates,
            ports_used,
            interfaces,
            shards,
            restarts: predecessors,
        })?;
        link.ready().context("cannot tell the keeper that packets flow")?;
        run_or_die(|| control.run());
        Ok(())
    });
    steering.detach();
    result
}

/// A thread that panics ends the engine: the keeper starts another. Half an engine would be worse.
fn run_or_die(body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        std::process::abort();
    }
}

/// Each socket takes a descriptor: as many as the hard limit allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!("the limit of open descriptors stays at {:?}: {error}", limit.current);
    }
}

fn processors(wanted: &[usize]) -> Result<Vec<core_affinity::CoreId>> {
    let allowed = core_affinity::get_core_ids().ok_or_else(|| anyhow!("the processors to run on cannot be read"))?;
    if wanted.is_empty() {
        return Ok(allowed);
    }
    wanted
        .iter()
        .map(|&id| {
            allowed.iter().find(|core| core.id == id).copied().ok_or_else(|| {
                let ids: Vec<String> = allowed.iter().map(|core| core.id.to_string()).collect();
                anyhow!("processor {id} of \"cpus\" may not be used: those that may are {}", ids.join(", "))
            })
        })
        .collect()
}

/// This shard's queues of every interface, in the interfaces' order.
fn attachments(opened: &mut [Opened], shard: usize, shards: usize) -> Vec<Attachment> {
    let mut attachments = Vec::new();
    for interface in opened {
        let link_header = interface.link_header();
        for (nth, (_, slot)) in interface.ports.iter_mut().enumerate() {
            if nth % shards == shard
                && let Some(port) = slot.take()
            {
                attachments.push(Attachment { id: interface.id, port: Some(port), link_header, unflushed: false });
            }
        }
    }
    attachments
}

fn routing(opened: &[Opened], routes: &[Route]) -> Routing {
    let mut routing = Routing::default();
    for interface in opened {
        for &(address, prefix_len) in &interface.addresses {
            routing.add_address(interface.id, address, prefix_len);
        }
    }
    for route in routes {
        routing.add_route(*route);
    }
    routing
}

/// Routes of the configuration, and the host's through shared interfaces.
fn routes(config: &crate::config::Config, opened: &[Opened]) -> Result<Vec<Route>> {
    let mut routes: Vec<Route> = config
        .default_routes()
        .iter()
        .filter(|route| route.gateway.is_ipv4())
        .map(|route| Route {
            destination: Ipv4Addr::UNSPECIFIED.into(),
            prefix_len: 0,
            gateway: Some(route.gateway),
            port: PortId(route.interface as u8),
            source: route.source,
        })
        .collect();
    if opened.iter().any(|interface| interface.mode == AddressMode::Shared) {
        let mut of_host = host::tables::routes().context("cannot read the host's routes")?;
        of_host.sort_by_key(|route| route.metric);
        for route in of_host.iter().filter(|route| route.destination.is_ipv4()) {
            let interface = opened
                .iter()
                .find(|interface| interface.index == route.interface && interface.mode == AddressMode::Shared);
            if let Some(interface) = interface {
                routes.push(route.for_port(interface.id));
            }
        }
    }
    Ok(routes)
}

/// Tells a fresh stack of interfaces, addresses, routes and permanent neighbours.
fn introduce(
    stack: &mut Stack<'static>,
    opened: &[Opened],
    configs: &[InterfaceConfig],
    routes: &[Route],
    config: &crate::config::Config,
    host: &mut ShardHost<'_>,
) -> Result<()> {
    let refused = |what: String| move |error| anyhow!("{what} cannot be used: {error:?}");
    for ((interface, wanted), settings) in opened.iter().zip(&config.interfaces).zip(configs) {
        stack.add_interface(settings).map_err(refused(format!("interface {}", interface.name)))?;
        for &(address, prefix_len) in &interface.addresses {
            stack.add_address(interface.id, address, prefix_len).map_err(refused(format!("address {address}")))?;
        }
        for (address, mac) in wanted.neighbours.iter().filter(|(address, _)| address.is_ipv4()) {
            stack
                .set_neighbour(interface.id, *address, Some(mac.0), host)
                .map_err(refused(format!("neighbour {address}")))?;
        }
    }
    for route in routes {
        stack.add_route(route).map_err(refused(format!("the route to {}/{}", route.destination, route.prefix_len)))?;
    }
    Ok(())
}
