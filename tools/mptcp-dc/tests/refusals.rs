// SPDX-License-Identifier: GPL-2.0

//! What every kernel refuses, with the module or without.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};

use mptcp_dc::{enable_app_key, info, set_key, set_low_overhead, Error, LowOverhead};

#[test]
fn sockets_of_other_protocols_are_no_mptcp_sockets() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(matches!(enable_app_key(&tcp, true), Err(Error::NotMptcp)));
    assert!(matches!(set_key(&tcp, &[1; 32]), Err(Error::NotMptcp)));
    assert!(matches!(
        set_low_overhead(&udp, LowOverhead::Offer),
        Err(Error::NotMptcp)
    ));
    assert!(matches!(info(&udp), Err(Error::NotMptcp)));
}

#[test]
fn a_file_is_no_mptcp_socket() {
    let file = File::open("/dev/null").unwrap();
    assert!(matches!(info(&file), Err(Error::NotMptcp)));
}

#[test]
fn an_error_keeps_its_errno() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = std::io::Error::from(enable_app_key(&tcp, true).unwrap_err());
    assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
}
