// SPDX-License-Identifier: GPL-2.0

//! A connection from beginning to end, as both sockets and the wire saw it.

use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{anyhow, ensure, Context, Result};

use crate::capture::Capture;
use crate::handshake::{Expected, Keys, Protocol, Trace};
use crate::mptcp::{self, Info};
use crate::netns::{Family, Pair, CLIENT_DEV};
use crate::wire;

/// Who sends first, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The client, when it is connected.
    Client,
    /// The client, with the third ACK.
    ClientWithAck,
    /// The server.
    Server,
}

const REQUEST: usize = 3_000;
const REPLY: usize = 50_000;

/// A connection that carried a request, a reply and one request more, and was closed.
pub struct Connection {
    pub trace: Trace,
    /// `None`: plain TCP.
    pub client: Option<Info>,
    pub server: Option<Info>,
}

impl Connection {
    /// Makes one between the pair's own addresses.
    pub fn run(pair: &Pair, family: Family) -> Result<Self> {
        let at = Pair::server_addr(family);
        Self::run_at(pair, SocketAddr::new(at, 0), at, Opening::Client)
    }

    /// Makes one to the address `to`, with a listener at `listen`.
    pub fn run_at(pair: &Pair, listen: SocketAddr, to: IpAddr, opening: Opening) -> Result<Self> {
        let listener = mptcp::listen(&pair.server, listen)?;
        let to = SocketAddr::new(to, listener.local_addr()?.port());
        let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;

        let server = thread::spawn(move || serve(&listener, opening));
        let client = talk(pair, to, opening).context("client");
        let server = server
            .join()
            .unwrap_or_else(|_| Err(anyhow!("panicked")))
            .context("server");
        let both = client.and_then(|client| Ok((client, server?)));
        let ((stream, client), server) = match both {
            Ok(both) => both,
            Err(error) => {
                let segments = capture.segments()?.to_vec();
                return Err(error.context(format!("the segments were\n{}", wire::list(&segments))));
            }
        };
        let trace = Trace::take(&mut capture, wire::on_wire(stream.local_addr()?))?;
        Ok(Self {
            trace,
            client,
            server,
        })
    }

    /// Checks wire and sockets against what is expected, and against each other.
    pub fn check(&self, expected: &Expected) -> Result<Option<Keys>> {
        let keys = self.trace.check(expected)?;
        self.trace.check_no_reset()?;
        let Some(keys) = keys else {
            ensure!(self.client.is_none(), "the client says {:x?}", self.client);
            ensure!(self.server.is_none(), "the server says {:x?}", self.server);
            return Ok(None);
        };
        for (end, info, key) in [
            ("client", self.client, keys.client),
            ("server", self.server, keys.server),
        ] {
            let info = info.with_context(|| format!("the {end} says plain TCP"))?;
            ensure!(info.knows_peer(), "the {end} says {info:x?}");
            let is_half = info.token == wire::token(key);
            ensure!(
                is_half == (expected.protocol == Protocol::LowOverhead),
                "the {end}'s token is {:#x}, its key field {key:#x}",
                info.token
            );
        }
        Ok(Some(keys))
    }
}

fn serve(listener: &TcpListener, opening: Opening) -> Result<Option<Info>> {
    let stream = mptcp::accept(listener)?;
    if opening == Opening::Server {
        mptcp::send(&stream, 5, REQUEST)?;
    }
    mptcp::receive(&stream, 1, REQUEST)?;
    mptcp::send(&stream, 2, REPLY)?;
    mptcp::receive(&stream, 3, REQUEST)?;
    let info = Info::of(&stream)?;
    mptcp::send(&stream, 4, 1)?;
    mptcp::receive_end(&stream)?;
    Ok(info)
}

/// The stream is returned open: its address must not be used again before the capture was read.
fn talk(pair: &Pair, to: SocketAddr, opening: Opening) -> Result<(TcpStream, Option<Info>)> {
    let stream = mptcp::connect_with(&pair.client, to, |socket| match opening {
        // At a client, this delays the third ACK until there is data to go with it.
        Opening::ClientWithAck => mptcp::set_tcp(socket, libc::TCP_DEFER_ACCEPT, 1),
        Opening::Client | Opening::Server => Ok(()),
    })?;
    if opening == Opening::Server {
        mptcp::receive(&stream, 5, REQUEST)?;
    }
    mptcp::send(&stream, 1, REQUEST)?;
    mptcp::receive(&stream, 2, REPLY)?;
    mptcp::send(&stream, 3, REQUEST)?;
    mptcp::receive(&stream, 4, 1)?;
    let info = Info::of(&stream)?;
    stream.shutdown(Shutdown::Write)?;
    mptcp::receive_end(&stream)?;
    Ok((stream, info))
}
