// SPDX-License-Identifier: GPL-2.0

//! The slides' "Impact on real traffic": 250 requests at a time for a file of 1 KB, each on a connection of its own, by a
//! growing number of subflows. nginx and ab as Debian has them, by way of mptcpize.
//!
//! An exchange of 1 KB is over before the path manager's first MP_JOIN is out. So that there are joins at all, the
//! server keeps a connection for [`LINGER`] after its answer. So the CPU is idle at times, and requests are counted by the
//! time that it is busy: [`clock::busy`].
//!
//! All subflows go over one veth, each but the first from an address of its own. What either host does can't be told
//! apart: on one CPU, what a segment causes at the far end happens in the time of whoever sent it. ([`crate::sides`] does, in real
//! time.)

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::clock;
use crate::measure::{idle, Amount, State};
use crate::net::{self, Net, Netns, SERVER, VETH};
use crate::report::{Case, Limit, Report};

const PORT: u16 = 8080;
/// Requests at a time (slide).
pub const PARALLEL: usize = 250;
/// Bytes of the file (slide).
const SIZE: usize = 1024;
/// What nginx waits for another request, which never comes, before it closes a connection; in its own words.
const LINGER: &str = "300ms";
/// Of a connection, the first one included.
pub const SUBFLOWS: [usize; 4] = [1, 2, 4, 8];
/// Where low overhead must reach [`OF_LIMIT`] percent of the run without hashes.
const CHECKED: usize = 4;
const OF_LIMIT: f64 = 95.0;

/// TIME-WAIT, and some.
const FORGET: u64 = 70;

/// How both hosts speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Tcp,
    /// MPTCP of the stock kernel.
    Regular,
    LowOverhead,
    /// MPTCP of the stock kernel without its hashes: about what there is to gain.
    Emptied,
}

impl Mode {
    const ALL: [Self; 4] = [Self::Tcp, Self::Regular, Self::Emptied, Self::LowOverhead];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "plain TCP",
            Self::Regular => "regular MPTCP",
            Self::LowOverhead => "lowoverhead=2",
            Self::Emptied => "hashes emptied",
        }
    }

    /// Brings the kernel into the state that the mode wants, and lets the guest calm down.
    pub fn establish(self, net: &Net) -> Result<()> {
        match self {
            Self::LowOverhead => State::Loaded(2),
            Self::Emptied => State::Emptied,
            Self::Tcp | Self::Regular => State::Absent,
        }
        .establish(net)
    }
}

/// Measures all modes and numbers of subflows; without a module, what needs none.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    clock::check()?;
    let mut report = Report::new(
        "http",
        "requests per second of a busy CPU (10^9 instructions of both hosts)",
    );
    let dir = tempdir()?;
    let net = scene()?;
    idle(amount.idle);
    for mode in Mode::ALL {
        if mode == Mode::LowOverhead && !module {
            continue;
        }
        mode.establish(&net)?;
        let server = Server::start(&net.server, &dir, mode != Mode::Tcp, None)?;
        for subflows in SUBFLOWS {
            if mode == Mode::Tcp && subflows > 1 {
                continue;
            }
            set_subflows(&net.client, subflows)?;
            let case = measure(&net, mode, subflows, amount)?;
            report.cases.push(judged(case, mode, subflows));
        }
        drop(server);
    }
    report.judge();
    if let Some(gains) = gains(&report) {
        check_growth(&mut report, &gains);
    }
    fs::remove_dir_all(&dir).ok();
    Ok(report)
}

/// Two hosts; the client has an address for each additional subflow.
pub fn scene() -> Result<Net> {
    let net = Net::new()?;
    for netns in [&net.client, &net.server] {
        netns.set("ipv4/tcp_max_tw_buckets", 1 << 20)?;
    }
    for number in 1..SUBFLOWS[SUBFLOWS.len() - 1] {
        let command = format!("addr add {}/24 dev {VETH}", address(number));
        net.client.ip(&command)?;
    }
    Ok(net)
}

/// Notes a target missed unless each gain is larger than the one before.
fn check_growth(report: &mut Report, gains: &[f64]) {
    if !gains.windows(2).all(|pair| pair[0] < pair[1]) {
        let gains: Vec<_> = gains.iter().map(|gain| format!("{gain:+.1} %")).collect();
        report.missed.push(format!(
            "the gain over regular MPTCP doesn't grow with the number of subflows: {}",
            gains.join(", ")
        ));
    }
}

/// A number of subflows, in words.
pub fn what(subflows: usize) -> String {
    match subflows {
        1 => "1 subflow".to_owned(),
        n => format!("{n} subflows"),
    }
}

/// What low overhead gains over regular MPTCP, in percent, by number of subflows.
pub fn gains(report: &Report) -> Option<Vec<f64>> {
    let figure = |mode: Mode, subflows| {
        let wanted = (mode.name(), what(subflows));
        let mut cases = report.cases.iter();
        let case = cases.find(|case| (case.module.as_str(), &case.what) == (wanted.0, &wanted.1));
        case.map(Case::figure)
    };
    SUBFLOWS
        .iter()
        .map(|&n| {
            let ratio = figure(Mode::LowOverhead, n)? / figure(Mode::Regular, n)?;
            Some((ratio - 1.0) * 100.0)
        })
        .collect()
}

/// A case with what it is compared with, and the least that it may be.
fn judged(mut case: Case, mode: Mode, subflows: usize) -> Case {
    let against = |mode: Mode| Some((mode.name().to_owned(), what(subflows)));
    match mode {
        Mode::LowOverhead if subflows == CHECKED => {
            case.against = against(Mode::Emptied);
            case.limit = Some(Limit::AtLeast(OF_LIMIT - 100.0));
        }
        Mode::LowOverhead | Mode::Emptied => case.against = against(Mode::Regular),
        Mode::Regular if subflows == 1 => case.against = against(Mode::Tcp),
        _ => {}
    }
    case
}

/// The client's address that an additional subflow comes from.
pub fn address(number: usize) -> String {
    format!("192.0.2.{}", 10 + number)
}

/// Has the path manager make so many of each connection, the first one included.
pub fn set_subflows(client: &Netns, subflows: usize) -> Result<()> {
    client.ip("mptcp endpoint flush")?;
    for number in 1..subflows {
        client.ip(&format!(
            "mptcp endpoint add {} id {number} subflow",
            address(number)
        ))?;
    }
    Ok(())
}

/// What the two ends have counted.
pub struct Counts {
    capable: u64,
    ours: u64,
    joins: u64,
    refused: u64,
    fallbacks: u64,
}

impl Counts {
    pub fn of(net: &Net) -> Result<Self> {
        let refused = |netns: &Netns| netns.mib("MPFallbackTokenInit");
        Ok(Self {
            capable: net.server.mib("MPCapableACKRX")?,
            ours: if net::module_is_loaded() {
                net.client.counter("MPCapableSYNACKRX")?
            } else {
                0
            },
            joins: net.server.mib("MPJoinAckRx")?,
            refused: refused(&net.client)? + refused(&net.server)?,
            fallbacks: net.client.mib("MPCapableSYNTXDrop")?
                + net.client.mib("MPCapableFallbackSYNACK")?
                + net.server.mib("MPCapableFallbackACK")?,
        })
    }

    /// Checks that connections and joins since `before` are those of `1 + requests` requests and one more; how many
    /// joins there were.
    ///
    /// When ab has the answers that it needs, it may have begun as many connections more as it has open. So counts are
    /// bounds; that no connection fell back is exact.
    pub fn check_since(
        &self,
        before: &Self,
        mode: Mode,
        subflows: usize,
        requests: usize,
    ) -> Result<u64> {
        let name = format!("{}, {}", mode.name(), what(subflows));
        let capable = self.capable - before.capable;
        let ours = self.ours - before.ours;
        let expected = requests as u64 + 2;
        ensure!(
            self.refused == before.refused,
            "{name}: connections got no token"
        );
        ensure!(
            self.fallbacks == before.fallbacks,
            "{name}: {} connections fell back to TCP",
            self.fallbacks - before.fallbacks
        );
        // The client's SYN/ACK comes before the server's ACK.
        ensure!(
            mode != Mode::LowOverhead || ours >= capable,
            "{name}: {ours} of {capable} connections are low-overhead"
        );
        let is_all = |count: u64, wanted: bool| match wanted {
            true => (expected..=expected + PARALLEL as u64).contains(&count),
            false => count == 0,
        };
        ensure!(
            is_all(capable, mode != Mode::Tcp),
            "{name}: {capable} of {expected} connections are MPTCP"
        );
        ensure!(
            is_all(ours, mode == Mode::LowOverhead),
            "{name}: {ours} of {expected} connections are low-overhead"
        );
        let joins = self.joins - before.joins;
        let wanted = if mode == Mode::Tcp { 0 } else { subflows - 1 };
        let made = joins as f64 / expected as f64;
        ensure!(
            made > wanted as f64 - 0.1,
            "{name}: of {wanted} joins a request {made:.2} were made in time; is the machine busy with other work?"
        );
        Ok(joins)
    }
}

fn measure(net: &Net, mode: Mode, subflows: usize, amount: Amount) -> Result<Case> {
    let requests = (amount.samples / 2).max(PARALLEL);
    let mut rounds = vec![];
    let mut joins = 0;
    // What is done for the first time costs more.
    fetch(&net.client, PARALLEL, mode != Mode::Tcp, None)?;
    for _ in 0..amount.rounds.clamp(1, 3) {
        idle(FORGET);
        let before = Counts::of(net)?;
        // ab itself costs something to start, and so does one request.
        let [one, all] = [1, 1 + requests].map(|requests| -> Result<f64> {
            let start = clock::busy()?;
            fetch(&net.client, requests, mode != Mode::Tcp, None)?;
            // What the last ones still do.
            idle(2);
            Ok(clock::busy()? - start)
        });
        rounds.push(requests as f64 * 1e9 / (all? - one?));
        let after = Counts::of(net)?;
        joins += after.check_since(&before, mode, subflows, requests)?;
    }
    let samples = ((requests + 2) * rounds.len()) as f64;
    let case = Case {
        joins: Some(joins as f64 / samples),
        ..Case::counted(mode.name().to_owned(), what(subflows), rounds)
    };
    eprintln!(
        "dc-bench: {:14} {:12} {:7.1} a second, spread {:.2} %, {:.2} joins a request",
        case.module,
        case.what,
        case.figure(),
        case.spread(),
        joins as f64 / samples
    );
    Ok(case)
}

/// What makes a command run on one CPU.
fn pin(cpu: Option<usize>) -> String {
    cpu.map_or(String::new(), |cpu| format!("taskset -c {cpu} "))
}

/// Lets ab fetch the file so often.
pub fn fetch(client: &Netns, requests: usize, mptcp: bool, cpu: Option<usize>) -> Result<()> {
    let parallel = PARALLEL.min(requests);
    let wrapper = if mptcp { "mptcpize run " } else { "" };
    let command = format!(
        "{}{wrapper}ab -q -n {requests} -c {parallel} -H Connection:keep-alive http://{}:{PORT}/file",
        pin(cpu),
        SERVER.addr
    );
    let text = client.output(&command)?;
    let value = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let complete = value("Complete requests:");
    let failed = value("Failed requests:");
    ensure!(
        complete == Some(requests as f64) && failed == Some(0.0),
        "ab: {complete:?} of {requests} requests complete, {failed:?} failed:\n{text}"
    );
    Ok(())
}

/// nginx, until it is dropped.
pub struct Server(Child);

impl Server {
    pub fn start(netns: &Netns, dir: &str, mptcp: bool, cpu: Option<usize>) -> Result<Self> {
        let wrapper = if mptcp { "mptcpize run " } else { "" };
        let file = format!("{dir}/nginx.conf");
        fs::write(&file, configuration(dir)).context("nginx.conf")?;
        netns.enter()?;
        let command = format!("{}{wrapper}nginx -p {dir} -c {file}", pin(cpu));
        let words: Vec<_> = command.split(' ').collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .stdout(Stdio::null())
            .spawn()
            .context("nginx")?;
        let mut server = Self(child);
        let start = Instant::now();
        while std::net::TcpStream::connect((SERVER.addr, PORT)).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("nginx: {status}");
            }
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "nginx doesn't listen"
            );
            sleep(Duration::from_millis(100));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: Our own child, which hasn't been waited for.
        unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn configuration(dir: &str) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid {dir}/pid;\nerror_log stderr error;\nuser root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         access_log off;\nkeepalive_timeout {LINGER};\nsendfile on;\ntcp_nodelay on;\nroot {dir};\n\
         server {{ listen {PORT} backlog=4096; }}\n\
         }}\n"
    )
}

/// A directory with the file that is asked for.
pub fn tempdir() -> Result<String> {
    let dir = format!("/tmp/dc-bench-http-{}", std::process::id());
    fs::create_dir_all(&dir).context("a directory below /tmp")?;
    fs::write(format!("{dir}/file"), vec![b'x'; SIZE])?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(regular: [f64; 4], ours: [f64; 4]) -> Report {
        let mut report = Report::new("http", "requests");
        for (mode, figures) in [(Mode::Regular, regular), (Mode::LowOverhead, ours)] {
            for (&n, figure) in SUBFLOWS.iter().zip(figures) {
                let case = Case::counted(mode.name().to_owned(), what(n), vec![figure]);
                report.cases.push(judged(case, mode, n));
            }
        }
        report
    }

    #[test]
    fn gains_are_by_number_of_subflows() {
        let growing = gains(&report([100.0; 4], [101.0, 110.0, 120.0, 130.0])).unwrap();
        assert_eq!(growing.len(), 4);
        assert!((growing[1] - 10.0).abs() < 1e-9);
        let mut report = report([100.0; 4], [110.0, 105.0, 120.0, 130.0]);
        let gains = gains(&report).unwrap();
        check_growth(&mut report, &gains);
        assert_eq!(report.missed.len(), 1);
        report.missed.clear();
        check_growth(&mut report, &growing);
        assert!(report.missed.is_empty());
    }

    #[test]
    fn without_the_module_there_is_no_gain() {
        let mut report = report([1.0; 4], [1.0; 4]);
        report
            .cases
            .retain(|case| case.module != Mode::LowOverhead.name());
        assert!(gains(&report).is_none());
    }
}
