//! Values of the configuration file: strings, as LKL demands, or the JSON type that one would expect.
//!
//! [`Loose<T>`] reads `"24"`, `24` and, where it makes sense, `true` alike, and turns them into a `T` that cannot be
//! wrong. What a type accepts is said once, in its [`Scalar`] implementation, from which the error text and the JSON
//! schema come too.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A type that one JSON scalar can hold.
pub trait Scalar: Sized {
    /// Ends the sentence "expected ...".
    const EXPECTED: &'static str;
    /// JSON types that the schema allows beside a string.
    const JSON_TYPE: Option<&'static str> = None;

    /// `None` when `text` is not one; the error then says [`Scalar::EXPECTED`].
    fn parse(text: &str) -> Option<Self>;
}

/// A scalar written as string, number or boolean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loose<T>(pub T);

impl<'de, T: Scalar> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor(PhantomData))
    }
}

struct LooseVisitor<T>(PhantomData<T>);

impl<T: Scalar> LooseVisitor<T> {
    fn parse<E: de::Error>(&self, text: &str) -> Result<Loose<T>, E> {
        let parsed = T::parse(text.trim());
        parsed.map(Loose).ok_or_else(|| E::custom(format_args!("`{text}` is not {}", T::EXPECTED)))
    }
}

impl<T: Scalar> Visitor<'_> for LooseVisitor<T> {
    type Value = Loose<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Loose<T>, E> {
        self.parse(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Loose<T>, E> {
        self.parse(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Loose<T>, E> {
        self.parse(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Loose<T>, E> {
        self.parse(&value.to_string())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Loose<T>, E> {
        self.parse(if value { "true" } else { "false" })
    }
}

impl<T: Scalar> JsonSchema for Loose<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        match T::JSON_TYPE {
            None => json_schema!({ "type": "string" }),
            Some(native) => json_schema!({ "type": ["string", native] }),
        }
    }
}

impl Scalar for String {
    const EXPECTED: &'static str = "a string";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Scalar for bool {
    const EXPECTED: &'static str = "true or false (or 1, 0, yes, no, on, off)";
    const JSON_TYPE: Option<&'static str> = Some("boolean");

    fn parse(text: &str) -> Option<Self> {
        match text {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }
}

/// Name or number of a user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who(pub String);

impl Scalar for Who {
    const EXPECTED: &'static str = "a name or a number";
    const JSON_TYPE: Option<&'static str> = Some("integer");

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Who(text.to_owned()))
    }
}

/// An unsigned number, decimal or with 0x, or with 0 in front as octal: what strtol with base 0 reads, as LKL does.
fn parse_number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten(),
    }
}

macro_rules! unsigned_scalar {
    ($($type:ty, $expected:literal;)*) => {$(
        impl Scalar for $type {
            const EXPECTED: &'static str = $expected;
            const JSON_TYPE: Option<&'static str> = Some("integer");

            fn parse(text: &str) -> Option<Self> {
                parse_number(text)?.try_into().ok()
            }
        }
    )*};
}

unsigned_scalar! {
    u8, "a number from 0 to 255";
    u16, "a number from 0 to 65535";
    u32, "a number from 0 to 4294967295";
    u64, "a number";
}

impl Scalar for Ipv4Addr {
    const EXPECTED: &'static str = "an IPv4 address such as 10.9.0.2";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Scalar for Ipv6Addr {
    const EXPECTED: &'static str = "an IPv6 address such as fd00::2";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Number of queues or shards: as many as there are, or so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    #[default]
    Auto,
    Exactly(u8),
}

impl Scalar for Count {
    const EXPECTED: &'static str = "\"auto\" or a number from 1 to 8";
    const JSON_TYPE: Option<&'static str> = Some("integer");

    fn parse(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(Count::Auto);
        }
        let count = u8::try_from(parse_number(text)?).ok()?;
        (1..=persona_channel::layout::SHARDS as u8).contains(&count).then_some(Count::Exactly(count))
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Count::Auto => serializer.serialize_str("auto"),
            Count::Exactly(count) => serializer.serialize_u8(*count),
        }
    }
}

/// An Ethernet address that one station can have (neither multicast nor all zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Scalar for Mac {
    const EXPECTED: &'static str = "a unicast Ethernet address such as 02:87:f8:27:22:02";

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let unicast = bytes[0] & 1 == 0 && bytes != [0; 6];
        (unicast && parts.next().is_none()).then_some(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Ports `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Scalar for PortRange {
    const EXPECTED: &'static str = "a port such as 443 or a range such as 8000-8099";
    const JSON_TYPE: Option<&'static str> = Some("integer");

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = PortRange { first: u16::from_str(first.trim()).ok()?, last: u16::from_str(last.trim()).ok()? };
        (range.first <= range.last).then_some(range)
    }
}

/// An address with the length of its network, or a whole address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    pub address: std::net::IpAddr,
    pub prefix_len: u8,
}

impl Network {
    pub fn contains(self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.address, address) {
            (V4(network), V4(address)) => {
                let host_bits = 32 - u32::from(self.prefix_len);
                (u64::from(u32::from(network)) >> host_bits) == (u64::from(u32::from(address)) >> host_bits)
            }
            (V6(network), V6(address)) => {
                let host_bits = 128 - u32::from(self.prefix_len);
                let prefix = |address: Ipv6Addr| u128::from(address).checked_shr(host_bits).unwrap_or(0);
                prefix(network) == prefix(address)
            }
            _ => false,
        }
    }
}

impl Scalar for Network {
    const EXPECTED: &'static str = "an address such as 10.9.0.2 or a network such as 10.9.0.0/16";

    fn parse(text: &str) -> Option<Self> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(u8::from_str(prefix_len).ok()?)),
            None => (text, None),
        };
        let address: std::net::IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix_len.unwrap_or(longest);
        (prefix_len <= longest).then_some(Network { address, prefix_len })
    }
}
