// SPDX-License-Identifier: GPL-2.0

//! The stage: two network namespaces, two paths, nginx, curl and tcpdump.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::process::{kill_process, Pid, Signal};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::capture::{self, Segment};
use crate::option::Host;

/// Bytes of the file that is fetched.
pub const FILE_SIZE: u64 = 10_000_000;

/// Addresses of the client and of the server on each path.
pub const PATHS: [[&str; 2]; 2] = [["10.0.1.1", "10.0.1.2"], ["10.0.2.1", "10.0.2.2"]];

/// What each path is made to be like.
const PATH_QUALITY: &str = "delay 1ms rate 200mbit limit 10000";

/// How long a program may take to be ready, or a download.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kernel functions whose calls are counted: for a token or IDSN of standard MPTCP, and for its joins.
const HASHES: [&str; 2] = ["sha256", "hmac_sha256_usingrawkey"];

const TRACING: &str = "/sys/kernel/tracing";

/// The network namespace of a host.
fn netns(host: Host) -> &'static str {
    match host {
        Host::A => "client",
        Host::B => "server",
    }
}

/// How the hosts are set up for a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// `lowoverhead=2` on both hosts.
    LowOverhead,
    /// `lowoverhead=0` on both hosts.
    Standard,
}

impl Setup {
    pub fn lowoverhead(self) -> u8 {
        match self {
            Self::LowOverhead => 2,
            Self::Standard => 0,
        }
    }
}

/// Event counters of a network namespace, by name.
pub type Counters = BTreeMap<String, u64>;

/// How far a counter moved.
pub fn count(counters: &Counters, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or(0)
}

/// What a download left behind.
pub struct Evidence {
    /// Segments on each path, as the client's side saw them.
    pub wire: [Vec<Segment>; 2],
    /// What `ip mptcp monitor` said on each host.
    pub events: [String; 2],
    /// How far the counters of each host moved: those of /proc/net/mptcp_dc, those that nstat shows.
    pub own_counters: [Counters; 2],
    pub mib_counters: [Counters; 2],
    /// Calls of [`HASHES`].
    pub hashes: [u64; 2],
    /// Bytes that the client received on each path, headers included.
    pub received: [u64; 2],
    /// What curl stored, and how long it took.
    pub digest: Digest256,
    pub size: u64,
    pub time: Duration,
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest256(pub [u8; 32]);

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A program that runs beside us, and ends with this.
struct Program {
    name: &'static str,
    child: Child,
}

impl Program {
    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        Ok(Self { name, child })
    }

    /// Asks it to end, and waits.
    fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT)
            .with_context(|| format!("{} ended by itself", self.name))?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The hosts, with the server running.
pub struct Stage {
    dir: TempDir,
    _nginx: Program,
    /// Digest of the file that the server has.
    pub digest: Digest256,
}

impl Stage {
    /// Makes the namespaces and paths, and starts the server.
    pub fn set_up() -> Result<Self> {
        let dir = TempDir::new()?;
        // nginx's workers are another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        for host in [Host::A, Host::B] {
            run(&format!("ip netns add {}", netns(host)))?;
            run(&format!("ip -n {} link set lo up", netns(host)))?;
        }
        for (i, addresses) in PATHS.iter().enumerate() {
            let path = path_name(i);
            run(&format!(
                "ip link add {path} netns client type veth peer name {path} netns server"
            ))?;
            for (host, address) in [Host::A, Host::B].into_iter().zip(addresses) {
                let netns = netns(host);
                run(&format!(
                    "ip -n {netns} address add {address}/24 dev {path}"
                ))?;
                run(&format!("ip -n {netns} link set {path} up"))?;
                run(&format!(
                    "tc -n {netns} qdisc add dev {path} root netem {PATH_QUALITY}"
                ))?;
            }
        }
        // The client joins from its second address to the server's first one, by way of path 2.
        let [[_, _], [a2, b2]] = PATHS;
        run(&format!(
            "ip -n client route add 10.0.1.0/24 via {b2} dev path2 metric 100"
        ))?;
        run(&format!(
            "ip -n client mptcp endpoint add {a2} dev path2 subflow"
        ))?;
        for host in [Host::A, Host::B] {
            run(&format!(
                "ip -n {} mptcp limits set subflows 1",
                netns(host)
            ))?;
        }
        count_hashes()?;
        let digest = make_file(&dir.path().join("file"))?;
        let nginx = start_nginx(dir.path())?;
        Ok(Self {
            dir,
            _nginx: nginx,
            digest,
        })
    }

    /// Downloads the file once and returns all that could be seen of it.
    pub fn download(&self, setup: Setup) -> Result<Evidence> {
        let name = format!("{setup:?}").to_lowercase();
        let file = |suffix: &str| self.dir.path().join(format!("{name}.{suffix}"));
        configure(setup)?;

        let captures = [0, 1].map(|i| file(&format!("path{}.pcap", i + 1)));
        let tcpdumps = [
            start_tcpdump(0, &captures[0], &file("path1.log"))?,
            start_tcpdump(1, &captures[1], &file("path2.log"))?,
        ];
        let event_files = [file("client.events"), file("server.events")];
        let monitors = [
            start_monitor(Host::A, &event_files[0])?,
            start_monitor(Host::B, &event_files[1])?,
        ];
        // It has subscribed when it waits; there is no other sign of it.
        sleep(Duration::from_millis(500));
        let hashes_before = hash_calls()?;
        let received_before = received()?;
        let before = [counters(Host::A)?, counters(Host::B)?];

        let got = file("got");
        let start = Instant::now();
        let url = format!("http://{}/file", PATHS[0][1]);
        run(&format!(
            "ip netns exec client mptcpize run curl --silent --show-error --fail --max-time {} --output {} {url}",
            PATIENCE.as_secs(),
            got.display(),
        ))?;
        let time = start.elapsed();
        // For the last segments to reach tcpdump and the monitors.
        sleep(Duration::from_millis(500));

        let after = [counters(Host::A)?, counters(Host::B)?];
        let hashes_after = hash_calls()?;
        let received_after = received()?;
        for program in tcpdumps.into_iter().chain(monitors) {
            program.stop()?;
        }
        let [client, server] = [0, 1].map(|host| {
            let [(own0, mib0), (own1, mib1)] = [&before[host], &after[host]];
            (moved(own0, own1), moved(mib0, mib1))
        });
        let content = fs::read(&got).context("curl stored nothing")?;
        Ok(Evidence {
            wire: [capture::read(&captures[0])?, capture::read(&captures[1])?],
            events: [
                fs::read_to_string(&event_files[0])?,
                fs::read_to_string(&event_files[1])?,
            ],
            own_counters: [client.0, server.0],
            mib_counters: [client.1, server.1],
            hashes: [0, 1].map(|i| hashes_after[i].saturating_sub(hashes_before[i])),
            received: [0, 1].map(|i| received_after[i].saturating_sub(received_before[i])),
            digest: Digest256(Sha256::digest(&content).into()),
            size: content.len() as u64,
            time,
        })
    }

    /// The listening MPTCP sockets of the server, as `ss` lists them.
    pub fn mptcp_listeners(&self) -> Result<String> {
        run("ip netns exec server ss --no-header --mptcp --listening --numeric")
    }
}

fn path_name(i: usize) -> String {
    format!("path{}", i + 1)
}

/// Runs a command, words divided by blanks; returns its standard output.
fn run(command: &str) -> Result<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run '{command}'"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("'{command}' failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command in the namespace of a host.
fn on(host: Host, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns(host), program]);
    command
}

/// Fills the file that the server offers with bytes that don't repeat.
fn make_file(path: &Path) -> Result<Digest256> {
    // An odd factor makes every number another one.
    let numbers = (0..FILE_SIZE / 8).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let content: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    fs::write(path, &content)?;
    Ok(Digest256(Sha256::digest(&content).into()))
}

/// Starts Debian's nginx, which knows nothing of MPTCP, through mptcpize.
fn start_nginx(dir: &Path) -> Result<Program> {
    let conf = dir.join("nginx.conf");
    let log = dir.join("nginx.log");
    fs::write(
        &conf,
        format!(
            "daemon off;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log;\nevents {{ }}\n\
             http {{\n\taccess_log off;\n\tsendfile on;\n\tserver {{\n\t\tlisten 80;\n\t\troot {0};\n\t}}\n}}\n",
            dir.display()
        ),
    )?;
    let mut nginx = Program::start(
        "nginx",
        on(Host::B, "mptcpize")
            .args(["run", "nginx", "-c"])
            .arg(&conf)
            .stderr(File::create(&log)?),
    )?;
    let start = Instant::now();
    while !run("ip netns exec server ss --no-header --tcp --listening --numeric")?.contains(":80 ")
    {
        let said = || fs::read_to_string(&log).unwrap_or_default();
        if let Some(status) = nginx.child.try_wait()? {
            bail!("nginx ended ({status}): {}", said());
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "nginx does not listen: {}",
            said()
        );
        sleep(Duration::from_millis(50));
    }
    Ok(nginx)
}

/// Sets the sysctls.
fn configure(setup: Setup) -> Result<()> {
    for host in [Host::A, Host::B] {
        let netns = netns(host);
        run(&format!(
            "ip netns exec {netns} sysctl --quiet --write net.mptcp_dc.lowoverhead={}",
            setup.lowoverhead()
        ))?;
    }
    Ok(())
}

/// Captures what passes the client's end of a path.
fn start_tcpdump(path: usize, capture: &Path, log: &Path) -> Result<Program> {
    let mut tcpdump = Program::start(
        "tcpdump",
        on(Host::A, "tcpdump")
            .args(["--immediate-mode", "--packet-buffered", "-Z", "root"])
            // KiB: room for all of it, however slow the guest.
            .args(["-B", "32768"])
            .args(["-i", &path_name(path), "-w"])
            .arg(capture)
            .arg("tcp")
            .stderr(File::create(log)?),
    )?;
    let start = Instant::now();
    loop {
        let said = fs::read_to_string(log)?;
        if said.contains("listening on") {
            return Ok(tcpdump);
        }
        if let Some(status) = tcpdump.child.try_wait()? {
            bail!("tcpdump ended ({status}): {said}");
        }
        ensure!(start.elapsed() < PATIENCE, "tcpdump is not ready: {said}");
        sleep(Duration::from_millis(50));
    }
}

/// Writes the MPTCP events of a host to a file.
fn start_monitor(host: Host, events: &Path) -> Result<Program> {
    Program::start(
        "ip mptcp monitor",
        on(host, "ip")
            .args(["mptcp", "monitor"])
            .stdout(File::create(events)?),
    )
}

/// The counters of a host: the module's own, and the stack's.
fn counters(host: Host) -> Result<(Counters, Counters)> {
    let read = |file| run(&format!("ip netns exec {} cat {file}", netns(host)));
    let own = read("/proc/net/mptcp_dc")?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect();
    let netstat = read("/proc/net/netstat")?;
    let mut rows = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("MPTcpExt: "));
    let (names, values) = rows
        .next()
        .zip(rows.next())
        .context("/proc/net/netstat has no MPTcpExt")?;
    let mib = names
        .split(' ')
        .zip(values.split(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect();
    Ok((own, mib))
}

/// Bytes that the client's interfaces received so far.
fn received() -> Result<[u64; 2]> {
    let of = |i| -> Result<u64> {
        let path = path_name(i);
        let file = format!("/sys/class/net/{path}/statistics/rx_bytes");
        let bytes = run(&format!("ip netns exec {} cat {file}", netns(Host::A)))?;
        bytes.trim().parse().context(file)
    };
    Ok([of(0)?, of(1)?])
}

/// How far counters moved; those that did not are left out.
fn moved(before: &Counters, after: &Counters) -> Counters {
    after
        .iter()
        .filter_map(|(name, now)| {
            let by = now.saturating_sub(before.get(name).copied().unwrap_or(0));
            (by > 0).then(|| (name.clone(), by))
        })
        .collect()
}

/// Has the kernel count calls of [`HASHES`].
fn count_hashes() -> Result<()> {
    if !PathBuf::from(TRACING).join("kprobe_events").exists() {
        run(&format!("mount -t tracefs tracefs {TRACING}"))?;
    }
    let events: Vec<String> = HASHES.iter().map(|f| format!("p:demo/{f} {f}\n")).collect();
    fs::write(format!("{TRACING}/kprobe_events"), events.concat()).context("kprobe_events")?;
    fs::write(format!("{TRACING}/events/demo/enable"), "1").context("kprobe events")
}

/// Calls of [`HASHES`] so far.
fn hash_calls() -> Result<[u64; 2]> {
    let profile = File::open(format!("{TRACING}/kprobe_profile"))?;
    let mut calls = [0; 2];
    for line in BufReader::new(profile).lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let (name, hits) = (words.next(), words.next());
        if let Some(i) = HASHES.iter().position(|hash| Some(*hash) == name) {
            calls[i] = hits.unwrap_or_default().parse().context("kprobe_profile")?;
        }
    }
    Ok(calls)
}
