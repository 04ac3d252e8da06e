// SPDX-License-Identifier: GPL-2.0

//! The MPTCP options that the demo shows: MP_CAPABLE and MP_JOIN, low-overhead or standard, and DSS.

use proto::option::mp_capable::{Flags, MpCapable, DC_VERSION};
use proto::option::{options, subtype, subtype_of};

/// One end of the connection, named as on the slides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The client.
    A,
    /// The server.
    B,
}

impl Host {
    pub fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub fn letter(self) -> char {
        match self {
            Self::A => 'A',
            Self::B => 'B',
        }
    }
}

/// A field of an option: its bytes, its name in RFC 8684 or on the slides, what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// In hexadecimal, as on the wire.
    pub bytes: String,
    pub name: String,
    pub value: String,
    /// Whose value it is, if it belongs to one host.
    pub of: Option<Host>,
}

impl Field {
    fn new(bytes: impl Into<String>, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            bytes: bytes.into(),
            name: name.into(),
            value: value.into(),
            of: None,
        }
    }
}

/// Bytes in hexadecimal, with blanks between them.
pub fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// An MP_CAPABLE option.
#[derive(Clone, Debug)]
pub struct Capable {
    pub view: MpCapable<Vec<u8>>,
    /// The same, as on the wire.
    pub bytes: Vec<u8>,
}

/// The MP_CAPABLE option of a segment; `None` if it has none that is well formed.
pub fn mp_capable(tcp_options: &[u8]) -> Option<Capable> {
    options(tcp_options)
        .filter(|option| subtype_of(option) == Some(subtype::MP_CAPABLE))
        .find_map(|option| {
            Some(Capable {
                view: MpCapable::new_checked(option.to_vec()).ok()?,
                bytes: option.to_vec(),
            })
        })
}

/// The MP_JOIN option of a segment, as on the wire.
pub fn mp_join(tcp_options: &[u8]) -> Option<Vec<u8>> {
    options(tcp_options)
        .find(|option| subtype_of(option) == Some(subtype::MP_JOIN) && option.len() >= 4)
        .map(<[u8]>::to_vec)
}

/// The two halves of a key field: the token, and the random part.
pub fn halves(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

/// Every field of an MP_CAPABLE that `sender` sent, in the order of the wire.
pub fn mp_capable_fields(option: &Capable, sender: Host) -> Vec<Field> {
    let Capable {
        view: option,
        bytes,
    } = option;
    let low_overhead = option.version() == DC_VERSION;
    let nibbles = |byte: Option<&u8>| byte.map_or((0, 0), |byte| (byte >> 4, byte & 0xf));
    let (subtype, version) = nibbles(bytes.get(2));
    let flags = option.flags();
    let bit = |mask| u8::from(flags.has(mask));
    let mut fields = vec![
        Field::new(hex(&bytes[..1]), "kind", format!("{}", bytes[0])),
        Field::new(hex(&bytes[1..2]), "length", format!("{}", bytes[1])),
        Field::new(
            format!("{subtype:x}"),
            "subtype",
            format!("{subtype}  MP_CAPABLE"),
        ),
        Field::new(format!(" {version:x}"), "version", format!("{version}")),
        Field::new(
            hex(&bytes[3..4]),
            "flags",
            format!(
                "A={} B={} C={} H={}",
                bit(Flags::CHECKSUM),
                bit(Flags::EXTERNAL),
                bit(Flags::DENY_JOIN),
                bit(Flags::HMAC_SHA256)
            ),
        ),
    ];
    for (key, host) in [
        (option.sender(), sender),
        (option.receiver(), sender.peer()),
    ] {
        let Some(key) = key else { continue };
        let (token, random) = halves(key);
        let x = host.letter();
        let mut add = |bytes: &[u8], name: String, value: String| {
            fields.push(Field {
                of: Some(host),
                ..Field::new(hex(bytes), name, value)
            });
        };
        if low_overhead {
            add(
                &token.to_be_bytes(),
                format!("Tok_{x}"),
                format!("{token:#010x}"),
            );
            add(
                &random.to_be_bytes(),
                format!("Rnd_{x}"),
                format!("{random:#010x}"),
            );
        } else {
            add(
                &key.to_be_bytes(),
                format!("Key_{x}"),
                format!("{key:#018x}"),
            );
        }
    }
    if let Some(len) = option.data_len() {
        fields.push(Field::new(
            hex(&len.to_be_bytes()),
            "data-level length",
            format!("{len}"),
        ));
    }
    if let Some(checksum) = option.checksum() {
        let value = u16::from_be_bytes(checksum);
        fields.push(Field::new(
            hex(&checksum),
            "checksum",
            format!("{value:#06x}"),
        ));
    }
    fields
}

/// Every field of an MP_JOIN to host B that `sender` sent, in the order of the wire. The length tells
/// what it holds: 4 and 8 bytes are low-overhead, 12, 16 and 24 are RFC 8684, section 3.2.
pub fn mp_join_fields(option: &[u8], sender: Host) -> Vec<Field> {
    let nibbles = |at: usize| {
        option
            .get(at)
            .map_or((0, 0), |byte| (byte >> 4, byte & 0xf))
    };
    let (subtype, backup) = nibbles(2);
    let mut fields = vec![
        Field::new(hex(&option[..1]), "kind", format!("{}", option[0])),
        Field::new(hex(&option[1..2]), "length", format!("{}", option[1])),
        Field::new(
            format!("{subtype:x}"),
            "subtype",
            format!("{subtype}  MP_JOIN"),
        ),
        Field::new(
            format!(" {backup:x}"),
            "backup",
            format!("B={}", backup & 1),
        ),
        Field::new(hex(&option[3..4]), "address ID", format!("{}", option[3])),
    ];
    let x = sender.letter();
    let mut add = |from: usize, to: usize, name: String, of| {
        let bytes = option.get(from..to).unwrap_or_default();
        let digits = hex(bytes).replace(' ', "");
        // An HMAC in both forms takes more than a line.
        let bytes = if bytes.len() > 8 {
            String::new()
        } else {
            hex(bytes)
        };
        fields.push(Field {
            of: Some(of),
            ..Field::new(bytes, name, format!("0x{digits}"))
        });
    };
    match option.len() {
        8 => add(4, 8, "Tok_B".into(), Host::B),
        12 => {
            add(4, 8, "token of B".into(), Host::B);
            add(8, 12, format!("nonce of {x}"), sender);
        }
        16 => {
            add(4, 12, format!("HMAC of {x}, 8 bytes"), sender);
            add(12, 16, format!("nonce of {x}"), sender);
        }
        24 => add(4, 24, format!("HMAC of {x}"), sender),
        _ => {}
    }
    fields
}

/// A number of which the wire may show only the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortened {
    pub value: u64,
    /// 32 or 64.
    pub bits: u32,
}

impl Shortened {
    /// Whether this is what the wire shows of `number`.
    pub fn is(self, number: u64) -> bool {
        self.value == number & (u64::MAX >> (64 - self.bits))
    }
}

/// A data sequence signal (RFC 8684, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dss {
    /// The first four bytes: kind, length, subtype, flags.
    pub head: [u8; 4],
    pub data_ack: Option<Shortened>,
    pub mapping: Option<Mapping>,
}

/// Where a part of a subflow's bytes belongs in the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Data sequence number of the first byte.
    pub dsn: Shortened,
    /// Its relative number on the subflow.
    pub ssn: u32,
    /// Bytes mapped.
    pub length: u16,
}

/// The data sequence signal of a segment.
pub fn dss(tcp_options: &[u8]) -> Option<Dss> {
    const DSN_8: u8 = 0x08;
    const HAS_MAPPING: u8 = 0x04;
    const ACK_8: u8 = 0x02;
    const HAS_ACK: u8 = 0x01;

    let option = options(tcp_options).find(|option| subtype_of(option) == Some(subtype::DSS))?;
    let head = *option.first_chunk()?;
    let [_, _, _, flags] = head;
    let mut rest = &option[4..];
    let mut number = |wide: bool| {
        let (head, tail) = rest.split_at_checked(if wide { 8 } else { 4 })?;
        rest = tail;
        Some(Shortened {
            value: head.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte)),
            bits: if wide { 64 } else { 32 },
        })
    };
    let data_ack = match flags & HAS_ACK {
        0 => None,
        _ => Some(number(flags & ACK_8 != 0)?),
    };
    let mapping = match flags & HAS_MAPPING {
        0 => None,
        _ => {
            let dsn = number(flags & DSN_8 != 0)?;
            let ssn = number(false)?.value as u32;
            let length = u16::from_be_bytes(*rest.first_chunk()?);
            Some(Mapping { dsn, ssn, length })
        }
    };
    Some(Dss {
        head,
        data_ack,
        mapping,
    })
}

/// Every field of a data sequence signal, checksum aside, in the order of the wire.
pub fn dss_fields(dss: &Dss) -> Vec<Field> {
    let [kind, length, third, flags] = dss.head;
    let bit = |at: u32| (flags >> at) & 1;
    let mut fields = vec![
        Field::new(hex(&[kind]), "kind", kind.to_string()),
        Field::new(hex(&[length]), "length", length.to_string()),
        Field::new(hex(&[third]), "subtype", format!("{}  DSS", third >> 4)),
        Field::new(
            hex(&[flags]),
            "flags",
            format!(
                "F={} m={} M={} a={} A={}",
                bit(4),
                bit(3),
                bit(2),
                bit(1),
                bit(0)
            ),
        ),
    ];
    let wide = |number: Shortened| match number.bits {
        64 => (
            hex(&number.value.to_be_bytes()),
            format!("{:#018x}", number.value),
        ),
        _ => (
            hex(&(number.value as u32).to_be_bytes()),
            format!("{:#010x}", number.value),
        ),
    };
    if let Some(ack) = dss.data_ack {
        let (bytes, value) = wide(ack);
        fields.push(Field::new(bytes, "data ACK", value));
    }
    if let Some(mapping) = dss.mapping {
        let (bytes, value) = wide(mapping.dsn);
        fields.push(Field::new(bytes, "data sequence number", value));
        fields.push(Field::new(
            hex(&mapping.ssn.to_be_bytes()),
            "subflow sequence number",
            format!("{}", mapping.ssn),
        ));
        fields.push(Field::new(
            hex(&mapping.length.to_be_bytes()),
            "data-level length",
            format!("{}", mapping.length),
        ));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind NOP, NOP and timestamps, as Linux sends it.
    fn behind_timestamps(option: &[u8]) -> Vec<u8> {
        [&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2][..], option].concat()
    }

    fn names(fields: &[Field]) -> Vec<(&str, &str)> {
        let pair = |field: &'_ Field| (field.name.clone(), field.value.clone());
        let pairs: Vec<(String, String)> = fields.iter().map(pair).collect();
        pairs.leak().iter().map(|(n, v)| (&**n, &**v)).collect()
    }

    #[test]
    fn a_third_ack_names_both_pairs() {
        let option = [
            30, 20, 0x0f, 0x80, 0xa, 0xb, 0xc, 0xd, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef, 5, 6, 7, 8,
        ];
        let found = mp_capable(&behind_timestamps(&option)).unwrap();
        let fields = mp_capable_fields(&found, Host::A);
        assert_eq!(
            names(&fields),
            [
                ("kind", "30"),
                ("length", "20"),
                ("subtype", "0  MP_CAPABLE"),
                ("version", "15"),
                ("flags", "A=1 B=0 C=0 H=0"),
                ("Tok_A", "0x0a0b0c0d"),
                ("Rnd_A", "0x01020304"),
                ("Tok_B", "0xdeadbeef"),
                ("Rnd_B", "0x05060708"),
            ]
        );
        assert_eq!(fields[7].of, Some(Host::B));
        assert_eq!(fields[7].bytes, "de ad be ef");
    }

    #[test]
    fn a_standard_option_has_a_key() {
        let option = [30, 12, 0x01, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];
        let found = mp_capable(&option).unwrap();
        let fields = mp_capable_fields(&found, Host::B);
        assert_eq!(names(&fields)[5], ("Key_B", "0x0102030405060708"));
        assert_eq!(fields.len(), 6);
    }

    #[test]
    fn a_join_is_told_by_its_length() {
        let fields = |option: &[u8]| {
            let found = mp_join(&behind_timestamps(option)).unwrap();
            let fields = mp_join_fields(&found, Host::A);
            fields[5..]
                .iter()
                .map(|f| format!("{} {}", f.name, f.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(fields(&[30, 8, 0x11, 2, 9, 8, 7, 6]), ["Tok_B 0x09080706"]);
        assert_eq!(fields(&[30, 4, 0x10, 2]), [""; 0]);
        assert_eq!(
            fields(&[30, 12, 0x10, 2, 9, 8, 7, 6, 1, 2, 3, 4]),
            ["token of B 0x09080706", "nonce of A 0x01020304"]
        );
        assert_eq!(mp_join(&[30, 3, 0x10, 1]), None);
    }

    #[test]
    fn a_mapping_of_either_width() {
        let wide = [
            30, 20, 0x20, 0x0d, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1,
        ];
        assert_eq!(
            dss(&behind_timestamps(&wide)),
            None,
            "the length is missing"
        );
        let wide = [&[30, 22][..], &wide[2..], &[0x01, 0x02]].concat();
        let dss_ = dss(&behind_timestamps(&wide)).unwrap();
        assert_eq!(dss_.data_ack, Some(Shortened { value: 9, bits: 32 }));
        let mapping = dss_.mapping.unwrap();
        assert_eq!((mapping.ssn, mapping.length), (1, 0x102));
        assert!(mapping.dsn.is(0x0102_0304_0506_0708));
        assert!(!mapping.dsn.is(0x0506_0708));

        let narrow = [30, 14, 0x20, 0x14, 5, 6, 7, 8, 0, 0, 0, 0, 0, 1];
        let dss_ = dss(&narrow).unwrap();
        assert!(dss_.data_ack.is_none());
        assert_eq!(dss_fields(&dss_)[3].value, "F=1 m=0 M=1 a=0 A=0");
        assert!(dss_.mapping.unwrap().dsn.is(0x0102_0304_0506_0708));
    }
}
