//! The reference loader takes the object too, and sees the same maps and programs. Needs root.

use libbpf_rs::{MapCore, MapType, ObjectBuilder, ProgramType};
use persona_ebpf::{Program, object_bytes};
use std::collections::BTreeMap;

#[test]
fn libbpf_loads_the_object() {
    let object = ObjectBuilder::default().open_memory(object_bytes()).unwrap().load().unwrap();

    let programs: BTreeMap<String, ProgramType> =
        object.progs().map(|program| (program.name().to_string_lossy().into_owned(), program.prog_type())).collect();
    assert_eq!(programs.len(), Program::ALL.len());
    for program in Program::ALL {
        let wanted = match program {
            Program::Xdp | Program::XdpFrags => ProgramType::Xdp,
            Program::Tc | Program::TcAlive => ProgramType::SchedCls,
            Program::Socket => ProgramType::SocketFilter,
        };
        assert_eq!(programs[program.name()] as u32, wanted as u32, "{}", program.name());
    }

    let maps: BTreeMap<String, (MapType, u32, u32)> = object
        .maps()
        .map(|map| (map.name().to_string_lossy().into_owned(), (map.map_type(), map.key_size(), map.value_size())))
        .collect();
    // The loaders' own: constants and the like.
    let maps: BTreeMap<_, _> = maps.into_iter().filter(|(name, _)| !name.contains('.')).collect();
    let wanted = BTreeMap::from([
        ("flows".into(), (MapType::Hash, 36, 16)),
        ("listeners".into(), (MapType::Hash, 20, 8)),
        ("addresses".into(), (MapType::Hash, 16, 16)),
        ("xsks".into(), (MapType::Xskmap, 4, 4)),
        ("counters".into(), (MapType::PercpuArray, 4, 8)),
        ("hold_until".into(), (MapType::Array, 4, 8)),
        ("alive".into(), (MapType::Sockmap, 4, 8)),
    ]);
    assert_eq!(maps, wanted);
}
