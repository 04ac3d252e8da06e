// SPDX-License-Identifier: GPL-2.0

//! Very many clients at a time, and the servers that answer them, all moved by one thread. They tell which of them got
//! through, which got an error, and which are stuck.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::mptcp::pattern;
use crate::netns::Netns;

/// How often a client says something and hears it again. The first message may be understood by an end that doesn't
/// understand what follows.
pub const ROUNDS: usize = 3;

/// Bytes of a message.
const LENGTH: usize = 200;

/// What a server says of itself.
const GREETING: [u8; 16] = *b"I am the server.";

/// As many descriptors as the tests may need.
const DESCRIPTORS: libc::rlim_t = 20_000;

/// Where some of the clients connect to.
struct Hall {
    listener: Option<TcpListener>,
    address: SocketAddr,
    /// The server speaks first.
    greets: bool,
    /// How far its clients may go.
    rounds: usize,
}

/// How far a client has come.
#[derive(Debug)]
enum State {
    Fresh,
    Connecting,
    Connected,
    /// It said something, and heard so many bytes of the answer.
    Asked(usize),
    Done,
    Failed(io::Error),
}

/// A client.
pub struct Client {
    pub stream: TcpStream,
    hall: usize,
    seed: u64,
    greeted: usize,
    round: usize,
    state: State,
}

impl Client {
    /// Its end of the connection; port 0 before it connects.
    pub fn address(&self) -> Result<SocketAddr> {
        self.stream.local_addr().context("local address")
    }

    pub fn hall(&self) -> usize {
        self.hall
    }

    fn message(&self) -> Vec<u8> {
        pattern((self.seed << 8) + self.round as u64, LENGTH)
    }

    fn fail(&mut self, error: io::Error) {
        self.state = State::Failed(error);
    }

    /// What it is to wait for.
    fn events(&self) -> Option<libc::c_short> {
        match self.state {
            State::Connecting => Some(libc::POLLOUT),
            State::Connected | State::Asked(_) => Some(libc::POLLIN),
            State::Fresh | State::Done | State::Failed(_) => None,
        }
    }

    /// Goes on as far as it can.
    fn advance(&mut self, greets: bool, rounds: usize) {
        if let Err(error) = self.try_advance(greets, rounds) {
            if error.kind() != io::ErrorKind::WouldBlock {
                self.fail(error);
            }
        }
    }

    fn try_advance(&mut self, greets: bool, rounds: usize) -> io::Result<()> {
        if let State::Connecting = self.state {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.stream
                .peer_addr()
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOTCONN) => io::ErrorKind::WouldBlock.into(),
                    _ => error,
                })?;
            self.state = State::Connected;
        }
        loop {
            match self.state {
                State::Connected if greets && self.greeted < GREETING.len() => {
                    let mut room = [0; GREETING.len()];
                    let room = &mut room[self.greeted..];
                    let n = some((&self.stream).read(room))?;
                    if room[..n] != GREETING[self.greeted..][..n] {
                        return Err(io::Error::other("another greeting"));
                    }
                    self.greeted += n;
                }
                State::Connected if self.round < rounds => {
                    let message = self.message();
                    let n = (&self.stream).write(&message)?;
                    if n < message.len() {
                        return Err(io::Error::other("no room for so little"));
                    }
                    self.state = State::Asked(0);
                }
                State::Connected => {
                    // It says nothing more now, but may hear that all is over.
                    let n = some((&self.stream).read(&mut [0]))?;
                    return Err(io::Error::other(format!("{n} bytes too many")));
                }
                State::Asked(got) => {
                    let mut room = [0; LENGTH];
                    let n = some((&self.stream).read(&mut room[got..]))?;
                    if room[got..][..n] != self.message()[got..][..n] {
                        return Err(io::Error::other("a wrong answer"));
                    }
                    self.state = State::Asked(got + n);
                    if got + n == LENGTH {
                        self.round += 1;
                        self.state = if self.round == ROUNDS {
                            State::Done
                        } else {
                            State::Connected
                        };
                    }
                }
                _ => return Ok(()),
            }
        }
    }
}

/// An end where data was expected is a failure.
fn some(read: io::Result<usize>) -> io::Result<usize> {
    match read? {
        0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the peer has ended",
        )),
        n => Ok(n),
    }
}

/// The server's end of a connection.
pub struct Served {
    pub stream: TcpStream,
    pub hall: usize,
    greeted: bool,
    over: bool,
}

impl Served {
    fn advance(&mut self, speaks: bool) {
        match self.try_advance(speaks) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The client has an error of its own, or is stuck.
            Ok(()) | Err(_) => self.over = true,
        }
    }

    fn try_advance(&mut self, speaks: bool) -> io::Result<()> {
        if speaks && !self.greeted {
            (&self.stream).write_all(&GREETING)?;
            self.greeted = true;
        }
        let mut buffer = [0; LENGTH];
        loop {
            match (&self.stream).read(&mut buffer)? {
                0 => return Ok(()),
                n => (&self.stream).write_all(&buffer[..n])?,
            }
        }
    }
}

/// How many clients came how far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub done: usize,
    /// By what the error says.
    pub failed: BTreeMap<String, usize>,
    /// Neither.
    pub stuck: Vec<String>,
}

impl Tally {
    /// All are through or have heard at once that they can't be. "Timed out" is what one hears who was stuck.
    pub fn check(&self) -> Result<()> {
        let late = io::Error::from_raw_os_error(libc::ETIMEDOUT).to_string();
        ensure!(
            self.stuck.is_empty() && !self.failed.contains_key(&late),
            "{self}"
        );
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} through", self.done)?;
        for (error, count) in &self.failed {
            write!(f, ", {count} with \"{error}\"")?;
        }
        if !self.stuck.is_empty() {
            write!(f, ", {} STUCK: ", self.stuck.len())?;
            let some: Vec<_> = self.stuck.iter().take(5).map(String::as_str).collect();
            write!(f, "{}", some.join("; "))?;
        }
        Ok(())
    }
}

/// The clients and servers of a test.
#[derive(Default)]
pub struct Crowd {
    halls: Vec<Hall>,
    pub clients: Vec<Client>,
    pub served: Vec<Served>,
}

impl Crowd {
    pub fn new() -> Result<Self> {
        let limit = libc::rlimit {
            rlim_cur: DESCRIPTORS,
            rlim_max: DESCRIPTORS,
        };
        // SAFETY: The kernel reads a structure.
        let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        ensure!(status == 0, "setrlimit: {}", io::Error::last_os_error());
        Ok(Self::default())
    }

    /// A listener; its number. Nobody speaks there before [`Self::allow`].
    pub fn hall(
        &mut self,
        netns: &Netns,
        at: SocketAddr,
        greets: bool,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> Result<usize> {
        let socket = fresh(netns, at)?;
        prepare(&socket).context("socket option of a listener")?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        self.halls.push(Hall {
            address: listener.local_addr()?,
            listener: Some(listener),
            greets,
            rounds: 0,
        });
        Ok(self.halls.len() - 1)
    }

    pub fn address(&self, hall: usize) -> SocketAddr {
        self.halls[hall].address
    }

    /// A client of a hall that doesn't connect yet; its number.
    pub fn client(
        &mut self,
        netns: &Netns,
        hall: usize,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> Result<usize> {
        let socket = fresh(netns, self.halls[hall].address)?;
        prepare(&socket).context("socket option of a client")?;
        self.clients.push(Client {
            stream: socket.into(),
            hall,
            seed: self.clients.len() as u64,
            greeted: 0,
            round: 0,
            state: State::Fresh,
        });
        Ok(self.clients.len() - 1)
    }

    /// Lets a client connect.
    pub fn connect(&mut self, client: usize) -> Result<()> {
        let client = &mut self.clients[client];
        let to = self.halls[client.hall].address;
        let socket = socket2::SockRef::from(&client.stream);
        client.state = State::Connecting;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => client.fail(error),
        }
        Ok(())
    }

    /// Lets all connect that didn't.
    pub fn connect_all(&mut self) -> Result<()> {
        for client in 0..self.clients.len() {
            if let State::Fresh = self.clients[client].state {
                self.connect(client)?;
            }
        }
        Ok(())
    }

    /// Lets the clients of a hall speak so many times.
    pub fn allow(&mut self, hall: usize, rounds: usize) {
        self.halls[hall].rounds = rounds;
        for client in self.clients.iter_mut().filter(|c| c.hall == hall) {
            if let State::Connected = client.state {
                client.advance(self.halls[hall].greets, rounds);
            }
        }
        for served in self.served.iter_mut().filter(|s| s.hall == hall) {
            served.advance(self.halls[hall].greets && rounds > 0);
        }
    }

    pub fn allow_all(&mut self, rounds: usize) {
        (0..self.halls.len()).for_each(|hall| self.allow(hall, rounds));
    }

    /// Closes a listener.
    pub fn close(&mut self, hall: usize) {
        self.halls[hall].listener = None;
    }

    /// How many clients of a hall are connected, or were.
    pub fn connected(&self, hall: usize) -> usize {
        let is_connected =
            |c: &&Client| matches!(c.state, State::Connected | State::Asked(_) | State::Done);
        let of_hall = self.clients.iter().filter(|c| c.hall == hall);
        of_hall.filter(is_connected).count()
    }

    /// How many were accepted there.
    pub fn accepted(&self, hall: usize) -> usize {
        self.served.iter().filter(|s| s.hall == hall).count()
    }

    /// Whether all clients of a hall have had so many answers, or an error.
    pub fn has_heard(&self, hall: usize, rounds: usize) -> bool {
        let mut of_hall = self.clients.iter().filter(|c| c.hall == hall);
        of_hall.all(|c| c.round >= rounds || matches!(c.state, State::Failed(_)))
    }

    /// Whether none of these clients has anything left to do.
    pub fn is_over(&self, which: impl Fn(&Client) -> bool) -> bool {
        let mut clients = self.clients.iter().filter(|c| which(c));
        clients.all(|c| matches!(c.state, State::Done | State::Failed(_)))
    }

    /// What became of the clients of a hall.
    pub fn tally(&self, hall: usize) -> Tally {
        self.tally_of(|client| client.hall == hall)
    }

    pub fn tally_of(&self, which: impl Fn(&Client) -> bool) -> Tally {
        let mut tally = Tally::default();
        for client in self.clients.iter().filter(|c| which(c)) {
            match &client.state {
                State::Done => tally.done += 1,
                State::Failed(error) => *tally.failed.entry(error.to_string()).or_default() += 1,
                state => tally.stuck.push(format!(
                    "{} {state:?} in round {}",
                    client.stream.local_addr().map_or(0, |at| at.port()),
                    client.round
                )),
            }
        }
        tally
    }

    /// Moves all until `done` says so; whether it did within `limit`.
    pub fn run(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<bool> {
        let start = Instant::now();
        loop {
            if done(self)? {
                return Ok(true);
            }
            if start.elapsed() > limit {
                return Ok(false);
            }
            self.step()?;
        }
    }

    /// Moves those who can be moved now, or waits a moment for one.
    fn step(&mut self) -> Result<()> {
        enum Who {
            Hall(usize),
            Client(usize),
            Served(usize),
        }
        const MOMENT_MS: libc::c_int = 20;

        let mut whos = Vec::new();
        let mut polls = Vec::new();
        let mut wait_for = |who, fd: RawFd, events| {
            whos.push(who);
            polls.push(libc::pollfd {
                fd,
                events,
                revents: 0,
            });
        };
        for (n, hall) in self.halls.iter().enumerate() {
            if let Some(listener) = &hall.listener {
                wait_for(Who::Hall(n), listener.as_raw_fd(), libc::POLLIN);
            }
        }
        for (n, client) in self.clients.iter().enumerate() {
            if let Some(events) = client.events() {
                wait_for(Who::Client(n), client.stream.as_raw_fd(), events);
            }
        }
        for (n, served) in self.served.iter().enumerate() {
            if !served.over {
                wait_for(Who::Served(n), served.stream.as_raw_fd(), libc::POLLIN);
            }
        }
        // SAFETY: So many structures.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as u64, MOMENT_MS) };
        ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
        for (who, poll) in whos.into_iter().zip(polls) {
            if poll.revents == 0 {
                continue;
            }
            match who {
                Who::Hall(n) => self.accept(n)?,
                Who::Client(n) => {
                    let client = &mut self.clients[n];
                    let hall = &self.halls[client.hall];
                    client.advance(hall.greets, hall.rounds);
                }
                Who::Served(n) => {
                    let served = &mut self.served[n];
                    let hall = &self.halls[served.hall];
                    served.advance(hall.greets && hall.rounds > 0);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, number: usize) -> Result<()> {
        let hall = &self.halls[number];
        let Some(listener) = &hall.listener else {
            return Ok(());
        };
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    let mut served = Served {
                        stream,
                        hall: number,
                        greeted: false,
                        over: false,
                    };
                    served.advance(hall.greets && hall.rounds > 0);
                    self.served.push(served);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("accept"),
            }
        }
    }
}

/// A socket that waits for nothing.
fn fresh(netns: &Netns, family: SocketAddr) -> Result<Socket> {
    let domain = Domain::for_address(family);
    let socket = netns
        .enter(|| Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)))
        .context("MPTCP socket")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
