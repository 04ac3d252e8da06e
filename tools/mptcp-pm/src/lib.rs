// SPDX-License-Identifier: GPL-2.0

//! Requests to MPTCP's path managers over generic netlink: endpoints with flags that ip(8) doesn't know yet, and the
//! userspace path manager. C header: `include/uapi/linux/mptcp_pm.h`.

#![forbid(unsafe_code)]

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// `MPTCP_PM_ADDR_FLAG_*`
pub const SIGNAL: u32 = 1 << 0;
pub const SUBFLOW: u32 = 1 << 1;
pub const BACKUP: u32 = 1 << 2;
pub const FULLMESH: u32 = 1 << 3;
pub const LAMINAR: u32 = 1 << 5;

/// `MPTCP_PM_CMD_*`
mod command {
    pub const ADD_ADDR: u8 = 1;
    pub const SET_LIMITS: u8 = 5;
    pub const ANNOUNCE: u8 = 8;
    pub const REMOVE: u8 = 9;
    pub const SUBFLOW_CREATE: u8 = 10;
}

/// `MPTCP_PM_ATTR_*`
mod attribute {
    pub const ADDR: u16 = 1;
    pub const RCV_ADD_ADDRS: u16 = 2;
    pub const SUBFLOWS: u16 = 3;
    pub const TOKEN: u16 = 4;
    pub const LOC_ID: u16 = 5;
    pub const ADDR_REMOTE: u16 = 6;
    /// `NLA_F_NESTED`
    pub const NESTED: u16 = 1 << 15;
}

/// `MPTCP_PM_ADDR_ATTR_*`
mod field {
    pub const FAMILY: u16 = 1;
    pub const ID: u16 = 2;
    pub const ADDR4: u16 = 3;
    pub const ADDR6: u16 = 4;
    pub const PORT: u16 = 5;
    pub const FLAGS: u16 = 6;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// An address with what a path manager is told about it.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// Port 0: none is named.
    pub at: SocketAddr,
    /// 0: the kernel chooses, or it is the ID of the first subflow.
    pub id: u8,
    pub flags: u32,
}

impl Address {
    pub fn new(at: impl Into<IpAddr>, id: u8, flags: u32) -> Self {
        Self {
            at: SocketAddr::new(at.into(), 0),
            id,
            flags,
        }
    }

    fn encode(&self, kind: u16) -> Vec<u8> {
        let mut fields = Vec::new();
        match self.at.ip() {
            IpAddr::V4(address) => {
                fields.extend(attr(field::FAMILY, &AF_INET.to_ne_bytes()));
                fields.extend(attr(field::ADDR4, &address.octets()));
            }
            IpAddr::V6(address) => {
                fields.extend(attr(field::FAMILY, &AF_INET6.to_ne_bytes()));
                fields.extend(attr(field::ADDR6, &address.octets()));
            }
        }
        if self.id != 0 {
            fields.extend(attr(field::ID, &[self.id]));
        }
        if self.at.port() != 0 {
            fields.extend(attr(field::PORT, &self.at.port().to_ne_bytes()));
        }
        if self.flags != 0 {
            fields.extend(attr(field::FLAGS, &self.flags.to_ne_bytes()));
        }
        attr(kind | attribute::NESTED, &fields)
    }
}

/// A netlink attribute, padded.
fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A request, ready to be sent any number of times.
#[derive(Clone)]
pub struct Request(Vec<u8>);

/// The path managers of a network namespace.
pub struct PathManager {
    socket: Socket,
    family: u16,
}

impl PathManager {
    /// Those of the namespace that the calling thread is in.
    pub fn open() -> Result<Self> {
        const NETLINK: i32 = 16;
        const NETLINK_GENERIC: i32 = 16;
        /// The family that tells of families, its request, and two attributes.
        const CONTROLLER: u16 = 16;
        const GET_FAMILY: u8 = 3;
        const FAMILY_ID: u16 = 1;
        const FAMILY_NAME: u16 = 2;

        let protocol = Protocol::from(NETLINK_GENERIC);
        let socket = Socket::new(Domain::from(NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut this = Self {
            socket,
            family: CONTROLLER,
        };
        let name = attr(FAMILY_NAME, b"mptcp_pm\0");
        let answer = this.send(&this.request(GET_FAMILY, &name))?;
        let mut rest = answer.get(20..).context("no generic netlink header")?;
        while let [l0, l1, k0, k1, tail @ ..] = rest {
            let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
            if u16::from_ne_bytes([*k0, *k1]) == FAMILY_ID {
                let id = tail.get(..2).context("no family ID")?;
                this.family = u16::from_ne_bytes([id[0], id[1]]);
                return Ok(this);
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or(&[]);
        }
        bail!("the kernel has no MPTCP path manager")
    }

    fn request(&self, command: u8, attributes: &[u8]) -> Request {
        const REQUEST: u16 = 1;
        const ACK: u16 = 4;
        let mut bytes = ((20 + attributes.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(self.family.to_ne_bytes());
        bytes.extend((REQUEST | ACK).to_ne_bytes());
        bytes.extend([0; 8]); // sequence number, port
        bytes.extend([command, 1, 0, 0]); // version 1
        bytes.extend(attributes);
        Request(bytes)
    }

    /// Sends a request and waits until it is carried out; the first answer. Those of requests are carried out
    /// within the call that sends them.
    pub fn send(&self, request: &Request) -> Result<Vec<u8>> {
        /// `NLMSG_ERROR`: the errno, which is 0 for an acknowledgement.
        const ERROR: u16 = 2;
        self.socket.send(&request.0).context("netlink")?;
        let mut first = None;
        loop {
            let mut buffer = [0; 4096];
            let length = (&self.socket).read(&mut buffer).context("netlink")?;
            let message = buffer.get(..length).context("netlink")?;
            ensure!(length >= 20, "a netlink message of {length} bytes");
            if u16::from_ne_bytes([message[4], message[5]]) != ERROR {
                first.get_or_insert(message.to_vec());
                continue;
            }
            let errno = i32::from_ne_bytes([message[16], message[17], message[18], message[19]]);
            if errno != 0 {
                return Err(std::io::Error::from_raw_os_error(-errno)).context("path manager");
            }
            return Ok(first.unwrap_or_default());
        }
    }

    /// Adds an endpoint to the kernel's path manager.
    pub fn add_endpoint(&self, address: &Address) -> Result<()> {
        let request = self.request(command::ADD_ADDR, &address.encode(attribute::ADDR));
        self.send(&request).map(drop)
    }

    /// How many subflows of a connection the kernel's path manager allows beside the first, and how many announced addresses it
    /// heeds.
    pub fn set_limits(&self, subflows: u32, addresses: u32) -> Result<()> {
        let parts = [
            attr(attribute::RCV_ADD_ADDRS, &addresses.to_ne_bytes()),
            attr(attribute::SUBFLOWS, &subflows.to_ne_bytes()),
        ];
        self.send(&self.request(command::SET_LIMITS, &parts.concat()))
            .map(drop)
    }

    /// To open a subflow of the connection with this token.
    pub fn subflow(&self, token: u32, local: &Address, remote: &Address) -> Request {
        let parts = [
            attr(attribute::TOKEN, &token.to_ne_bytes()),
            local.encode(attribute::ADDR),
            remote.encode(attribute::ADDR_REMOTE),
        ];
        self.request(command::SUBFLOW_CREATE, &parts.concat())
    }

    /// Announces an address to the peer of the connection with this token.
    pub fn announce(&self, token: u32, address: &Address) -> Result<()> {
        let parts = [
            attr(attribute::TOKEN, &token.to_ne_bytes()),
            address.encode(attribute::ADDR),
        ];
        self.send(&self.request(command::ANNOUNCE, &parts.concat()))
            .map(drop)
    }

    /// Withdraws the address with this ID, and closes subflows from it.
    pub fn remove(&self, token: u32, id: u8) -> Result<()> {
        let parts = [
            attr(attribute::TOKEN, &token.to_ne_bytes()),
            attr(attribute::LOC_ID, &[id]),
        ];
        self.send(&self.request(command::REMOVE, &parts.concat()))
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded() {
        assert_eq!(attr(1, &[7]), [5, 0, 1, 0, 7, 0, 0, 0]);
        let address = Address::new([10, 0, 0, 1], 0, 0).encode(attribute::ADDR);
        assert_eq!(address[..4], [20, 0, 1, 0x80]);
        assert_eq!(
            address[4..],
            [6, 0, 1, 0, 2, 0, 0, 0, 8, 0, 3, 0, 10, 0, 0, 1]
        );
    }
}
