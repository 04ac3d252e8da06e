// SPDX-License-Identifier: GPL-2.0

//! A TLS server and client whose MPTCP connections are authenticated with TLS's own key.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{ensure, Context, Result};
use mptcp_dc::{enable_app_key, set_key, EXPORTED_LEN, EXPORTER_LABEL};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore};
use rustls::{ServerConfig, ServerConnection, SideData};
use socket2::{Domain, Protocol, Socket, Type};

const HELP: &str = "\
Usage: tls serve ADDRESS CERTIFICATE         e.g. tls serve 0.0.0.0:4433 /tmp/certificate.pem
       tls fetch ADDRESS CERTIFICATE BYTES

serve makes a certificate, writes it to the file CERTIFICATE and sends whoever connects the BYTES that it asks for. fetch
trusts that certificate only. Both tell what became of each connection.
";

/// The name in the certificate; no resolver is asked for it.
const NAME: &str = "mptcp-dc.example";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut parser = lexopt::Parser::from_env();
    let mut values = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Value(value) => values.push(value.into_string().unwrap_or_default()),
            lexopt::Arg::Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    match values.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, certificate] => serve(address.parse()?, certificate.into()),
        ["fetch", address, certificate, bytes] => {
            fetch(address.parse()?, certificate.into(), bytes.parse()?)
        }
        _ => anyhow::bail!("wrong arguments\n{HELP}"),
    }
}

/// An MPTCP socket that asks for external keys, if the kernel can do that; else a TCP socket, since MPTCP would send
/// keys in clear.
fn socket(family: SocketAddr) -> Result<Socket> {
    let domain = Domain::for_address(family);
    let mptcp = Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP));
    if let Ok(mptcp) = mptcp {
        match enable_app_key(&mptcp, true) {
            Ok(()) => return Ok(mptcp),
            Err(error) => eprintln!("tls: no external keys: {error}"),
        }
    }
    Ok(Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?)
}

/// Ends the TLS handshake and gives the connection the key that it made. That this fails is no failure of the
/// connection: it goes on with one path.
fn handshake<S: SideData>(tls: &mut ConnectionCommon<S>, stream: &mut TcpStream) -> Result<String> {
    while tls.is_handshaking() {
        tls.complete_io(stream).context("TLS handshake")?;
    }
    // Tickets of TLS 1.3 and what else is left to be sent.
    while tls.wants_write() {
        tls.complete_io(stream)?;
    }
    let version = tls.protocol_version().context("no TLS version")?;
    let key = tls.export_keying_material([0; EXPORTED_LEN], EXPORTER_LABEL.as_bytes(), None)?;
    Ok(match set_key(&*stream, &key) {
        Ok(()) => format!("{version:?}, key set"),
        Err(error) => format!("{version:?}, no key: {error}"),
    })
}

fn serve(address: SocketAddr, certificate: PathBuf) -> Result<()> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(&certificate, own.cert.pem()).with_context(|| certificate.display().to_string())?;
    let key = PrivateKeyDer::try_from(own.key_pair.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = Arc::new(
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?,
    );

    let listener = socket(address)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address.into())?;
    listener.listen(64)?;
    loop {
        let (stream, peer) = listener.accept()?;
        let config = config.clone();
        thread::spawn(move || match serve_one(stream.into(), config) {
            Ok(report) => println!("{report}"),
            Err(error) => eprintln!("tls: {peer:?}: {error:#}"),
        });
    }
}

fn serve_one(mut stream: TcpStream, config: Arc<ServerConfig>) -> Result<String> {
    let mut tls = ServerConnection::new(config)?;
    let report = handshake(&mut tls, &mut stream)?;
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    let mut wanted = [0; 8];
    tls.read_exact(&mut wanted).context("request")?;
    let wanted = u64::from_be_bytes(wanted);
    std::io::copy(&mut std::io::repeat(b'.').take(wanted), &mut tls).context("answer")?;
    tls.conn.send_close_notify();
    tls.flush()?;
    Ok(format!("{wanted} bytes sent, {report}"))
}

fn fetch(address: SocketAddr, certificate: PathBuf, wanted: u64) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate)?)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let socket = socket(address)?;
    socket
        .connect(&address.into())
        .with_context(|| address.to_string())?;
    let mut stream = TcpStream::from(socket);
    let name = ServerName::try_from(NAME)?;
    let mut tls = ClientConnection::new(config.into(), name)?;
    let report = handshake(&mut tls, &mut stream)?;
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    tls.write_all(&wanted.to_be_bytes()).context("request")?;
    let got = std::io::copy(&mut tls, &mut std::io::sink()).context("answer")?;
    ensure!(got == wanted, "{got} bytes of {wanted}");
    println!("{got} bytes received, {report}");
    Ok(())
}
