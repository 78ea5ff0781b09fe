//! The policy that the engine puts into a session for the library: which sockets Persona takes and which stay on the
//! host. The engine compiles its configuration into [`Rule`]s, the library walks them in order and obeys the first
//! that matches; without a match the engine takes the socket.
//!
//! The rules lie at the start of [`Session::policy`](crate::layout::Session::policy), `policy_len` bytes of them, each
//! [`RULE_SIZE`] bytes. Destinations in 127.0.0.0/8 and ::1 stay on the host before any rule is asked.

/// Bytes of a rule in memory.
pub const RULE_SIZE: usize = 64;
/// Most rules of a policy: the library reads them into its caller's stack, which may be a signal handler's.
pub const MOST_RULES: usize = 128;
/// Longest program name a rule can hold.
pub const PROGRAM_SIZE: usize = 36;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Engine,
    Host,
    /// The engine, with MPTCP where the peer speaks it.
    EngineMultipath,
}

/// Which end of a socket a rule speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Both.
    Any,
    /// The destination of connect().
    Remote,
    /// The address given to bind().
    Local,
}

/// Family of an address in a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    Any,
    V4,
    V6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    pub action: Action,
    pub side: Side,
    pub family: Family,
    /// Leading bits of `address` that must match (0: any address of the family).
    pub prefix: u8,
    /// Ports, inclusive, in host order.
    pub first_port: u16,
    pub last_port: u16,
    /// Network order; IPv4 in the first 4 bytes.
    pub address: [u8; 16],
    /// Name of the program as the kernel has it in `comm`, NUL padded; all NUL: any program.
    pub program: [u8; PROGRAM_SIZE],
}

/// What is asked of the rules.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub side: Side,
    pub family: Family,
    pub address: [u8; 16],
    pub port: u16,
    pub program: &'a [u8],
}

impl Rule {
    /// A rule that matches everything.
    pub const fn all(action: Action) -> Self {
        Rule {
            action,
            side: Side::Any,
            family: Family::Any,
            prefix: 0,
            first_port: 0,
            last_port: u16::MAX,
            address: [0; 16],
            program: [0; PROGRAM_SIZE],
        }
    }

    pub fn encode(&self) -> [u8; RULE_SIZE] {
        let mut bytes = [0; RULE_SIZE];
        bytes[0] = match self.action {
            Action::Engine => 0,
            Action::Host => 1,
            Action::EngineMultipath => 2,
        };
        bytes[1] = match self.side {
            Side::Any => 0,
            Side::Remote => 1,
            Side::Local => 2,
        };
        bytes[2] = match self.family {
            Family::Any => 0,
            Family::V4 => 4,
            Family::V6 => 6,
        };
        bytes[3] = self.prefix;
        bytes[4..6].copy_from_slice(&self.first_port.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.last_port.to_ne_bytes());
        bytes[8..24].copy_from_slice(&self.address);
        bytes[24..24 + PROGRAM_SIZE].copy_from_slice(&self.program);
        bytes
    }

    /// None for a rule this version does not know.
    pub fn decode(bytes: &[u8; RULE_SIZE]) -> Option<Rule> {
        let mut address = [0; 16];
        address.copy_from_slice(&bytes[8..24]);
        let mut program = [0; PROGRAM_SIZE];
        program.copy_from_slice(&bytes[24..24 + PROGRAM_SIZE]);
        Some(Rule {
            action: match bytes[0] {
                0 => Action::Engine,
                1 => Action::Host,
                2 => Action::EngineMultipath,
                _ => return None,
            },
            side: match bytes[1] {
                0 => Side::Any,
                1 => Side::Remote,
                2 => Side::Local,
                _ => return None,
            },
            family: match bytes[2] {
                0 => Family::Any,
                4 => Family::V4,
                6 => Family::V6,
                _ => return None,
            },
            prefix: bytes[3],
            first_port: u16::from_ne_bytes([bytes[4], bytes[5]]),
            last_port: u16::from_ne_bytes([bytes[6], bytes[7]]),
            address,
            program,
        })
    }

    pub fn matches(&self, question: &Question) -> bool {
        let name =
            self.program.iter().position(|byte| *byte == 0).map_or(&self.program[..], |end| &self.program[..end]);
        (self.side == Side::Any || self.side == question.side)
            && (self.family == Family::Any || self.family == question.family)
            && (self.first_port..=self.last_port).contains(&question.port)
            && (name.is_empty() || name == question.program)
            && (self.family == Family::Any || same_prefix(&self.address, &question.address, self.prefix))
    }
}

/// What the rules (a whole number of encoded ones; a rest is ignored) say. Unknown rules are passed over.
pub fn decide(rules: &[u8], question: &Question) -> Action {
    rules
        .as_chunks::<RULE_SIZE>()
        .0
        .iter()
        .filter_map(Rule::decode)
        .find(|rule| rule.matches(question))
        .map_or(Action::Engine, |rule| rule.action)
}

fn same_prefix(one: &[u8; 16], other: &[u8; 16], bits: u8) -> bool {
    let bits = usize::from(bits).min(128);
    let (whole, rest) = (bits / 8, bits % 8);
    one[..whole] == other[..whole] && (rest == 0 || (one[whole] ^ other[whole]) >> (8 - rest) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(port: u16, address: [u8; 4], program: &'static [u8]) -> Question<'static> {
        let mut wide = [0; 16];
        wide[..4].copy_from_slice(&address);
        Question { side: Side::Remote, family: Family::V4, address: wide, port, program }
    }

    #[test]
    fn a_rule_survives_encoding() {
        let rule = Rule {
            action: Action::EngineMultipath,
            side: Side::Local,
            family: Family::V6,
            prefix: 65,
            first_port: 80,
            last_port: 443,
            address: core::array::from_fn(|i| i as u8),
            program: core::array::from_fn(|i| b'a' + i as u8 % 26),
        };
        assert_eq!(Rule::decode(&rule.encode()), Some(rule));
    }

    #[test]
    fn an_unknown_action_side_or_family_is_passed_over() {
        for place in 0..3 {
            let mut bytes = Rule::all(Action::Host).encode();
            bytes[place] = 99;
            assert_eq!(Rule::decode(&bytes), None);
            assert_eq!(decide(&bytes, &ask(80, [10, 0, 0, 1], b"curl")), Action::Engine);
        }
    }

    #[test]
    fn the_first_match_decides() {
        let mut ssh = Rule::all(Action::Host);
        (ssh.first_port, ssh.last_port) = (22, 22);
        let mut net = Rule::all(Action::Host);
        (net.family, net.prefix) = (Family::V4, 9);
        net.address[..2].copy_from_slice(&[10, 128]);
        let mut curl = Rule::all(Action::EngineMultipath);
        curl.program[..4].copy_from_slice(b"curl");
        let mut rules = [0; 3 * RULE_SIZE];
        for (place, rule) in rules.chunks_mut(RULE_SIZE).zip([ssh, net, curl]) {
            place.copy_from_slice(&rule.encode());
        }
        assert_eq!(decide(&rules, &ask(22, [10, 0, 0, 1], b"ssh")), Action::Host);
        assert_eq!(decide(&rules, &ask(80, [10, 200, 0, 1], b"wget")), Action::Host);
        assert_eq!(decide(&rules, &ask(80, [10, 127, 0, 1], b"wget")), Action::Engine);
        assert_eq!(decide(&rules, &ask(80, [10, 127, 0, 1], b"curl")), Action::EngineMultipath);
        assert_eq!(decide(&rules, &ask(80, [10, 127, 0, 1], b"curlx")), Action::Engine);
        assert_eq!(decide(&[], &ask(80, [10, 0, 0, 1], b"curl")), Action::Engine);
    }
}
