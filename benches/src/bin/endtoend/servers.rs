//! Short connections in both roles, and small requests on connections that stay open.

use crate::Effort;
use anyhow::Result;
use persona_benches::figures::{Better, Figure};
use persona_benches::ground::{Ground, Role, Who, Work};
use persona_benches::sample::per_second;

const RATE: (&str, Better) = ("1/s", Better::Higher);
/// Open at the same time.
const CONNECTIONS: u32 = 64;

pub fn as_client(ground: &mut Ground, effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let work = Work::new("connect", effort.milliseconds);
    measure(ground, "connections, AF_XDP as client / host", &work, effort, figures)?;
    eprintln!("engine: {}", ground.repeated()?);
    Ok(())
}

pub fn as_server(ground: &mut Ground, effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let work = Work { role: Role::Server, ..Work::new("connect", effort.milliseconds) };
    measure(ground, "connections, AF_XDP as server / host", &work, effort, figures)?;
    let work = Work { role: Role::Server, connections: CONNECTIONS, ..Work::new("requests", effort.milliseconds) };
    let name = format!("64 B requests on {CONNECTIONS} connections, AF_XDP as server / host");
    measure(ground, &name, &work, effort, figures)?;
    ground.persona.assert_kernel_saw_no_tcp()
}

fn measure(ground: &mut Ground, name: &str, work: &Work, effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let rounds = ground.rounds([Who::Persona, Who::Host], work, effort.rounds)?;
    figures.push(Figure::of_rounds(name.into(), RATE, &rounds, (0, 1), per_second)?);
    Ok(())
}
