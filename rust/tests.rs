// SPDX-License-Identifier: GPL-2.0

//! KUnit tests. They run when the module is loaded into a kernel with `CONFIG_KUNIT=y`.

use kernel::prelude::*;

/// The protocol crate, as this kernel's compiler flags made it.
#[kunit_tests(mptcp_dc_proto)]
mod proto_tests {
    use kernel::bindings;
    use proto::vectors;

    #[test]
    fn rc5_gives_the_published_vectors() {
        assert!(vectors::rc5().is_ok());
    }

    #[test]
    fn siphash_gives_the_published_vectors() {
        assert!(vectors::siphash().is_ok());
    }

    #[test]
    fn a_host_knows_its_own_pair_and_no_other() {
        assert!(vectors::own_pair().is_ok());
    }

    #[test]
    fn mp_capable_is_written_and_read_as_specified() {
        assert!(vectors::mp_capable().is_ok());
    }

    fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        // SAFETY: Key and message have these lengths, and there is room for an HMAC-SHA256.
        unsafe {
            bindings::hmac_sha256_usingrawkey(
                key.as_ptr(),
                key.len(),
                message.as_ptr(),
                message.len(),
                out.as_mut_ptr(),
            )
        };
        out
    }

    #[test]
    fn hmacs_of_fastcloses_are_those_of_another_library() {
        assert!(vectors::fastclose_hmacs(hmac).is_ok());
        assert!(vectors::fastclose_hmacs(|_, _| [0; 32]).is_err());
    }

    #[test]
    fn hmacs_of_joins_are_those_of_another_library() {
        assert!(vectors::join_hmacs(hmac).is_ok());
        assert!(vectors::join_hmacs(|_, _| [0; 32]).is_err());
    }
}

/// Tokens of this host.
#[kunit_tests(mptcp_dc_secret)]
mod secret_tests {
    use proto::nonce::{
        End,
        Flow, //
    };

    use crate::bh::BhGuard;
    use crate::bindings;
    use crate::secret;

    fn flow(port: u16) -> Flow {
        let end = |last, port: u16| End {
            addr: [192, 0, 2, last],
            port: port.to_be_bytes(),
        };
        Flow::v4(1, end(1, 80), end(2, port))
    }

    #[test]
    fn a_pair_is_known_to_the_connection_it_was_issued_to() {
        for port in 1000..1100 {
            let key = secret::issue(&flow(port), false, &BhGuard::new());
            assert!(key.is_some());
            let Some(key) = key else { return };
            assert!(secret::verify(&flow(port), key, &BhGuard::new()));
            assert!(!secret::verify(&flow(port + 1), key, &BhGuard::new()));
        }
    }

    #[test]
    fn tokens_in_a_row_differ() {
        let mut last = 0;
        for _ in 0..1000 {
            let token =
                secret::issue(&flow(1), false, &BhGuard::new()).map_or(0, |key| key.token().get());
            assert!(token != 0);
            assert!(token != last);
            last = token;
        }
    }

    #[test]
    fn a_pair_outlives_one_new_secret_and_not_two() {
        let Some(key) = secret::issue(&flow(7), false, &BhGuard::new()) else {
            assert!(false);
            return;
        };
        secret::dc_rekey();
        assert!(secret::verify(&flow(7), key, &BhGuard::new()));
        secret::dc_rekey();
        assert!(!secret::verify(&flow(7), key, &BhGuard::new()));
        // The CPU's cursor begins anew.
        assert!(secret::issue(&flow(7), false, &BhGuard::new()).is_some());
    }

    #[test]
    fn a_counter_not_taken_yet_is_not_known() {
        // SAFETY: Any number may be asked for.
        let cpus = unsafe { bindings::dc_cpus() };
        // SAFETY: As above.
        assert_eq!(unsafe { bindings::dc_cursor_of(cpus, 1) }, 0);
    }
}

/// The structures of the running kernel.
#[kunit_tests(mptcp_dc_layout)]
mod layout_tests {
    use crate::bindings;

    #[test]
    fn the_running_kernel_fits() {
        // SAFETY: Process context; the lookups were set up at load.
        assert_eq!(unsafe { bindings::dc_layout_check() }, 0);
    }
}

/// What the hooks on every segment let pass.
#[kunit_tests(mptcp_dc_wire)]
mod wire_tests {
    use crate::handshake::ours;

    fn has_ours(options: &[u8]) -> bool {
        ours(options).is_some()
    }

    #[test]
    fn only_mp_capable_of_version_15_is_looked_at() {
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let cases: [(&[u8], bool); 10] = [
            (&[], false),
            (&timestamps, false),
            (&[30, 12, 0x0f, 0, 1, 2, 3, 4, 5, 6, 7, 8], true),
            (&[30, 12, 0x01, 1, 1, 2, 3, 4, 5, 6, 7, 8], false),
            (&[30, 8, 0x20, 1, 0, 0, 0, 1, 30, 4, 0x0f, 1], false),
            (&[30, 4, 0x40, 7, 30, 4, 0x0f, 1], false),
            (&[2, 4, 5, 180, 1, 1, 30, 4, 0x0f, 1], true),
            (&[30], false),
            (&[30, 0, 0x0f, 0], false),
            (&[2, 200, 0, 0, 30, 4, 0x0f, 1], false),
        ];
        for (options, expected) in cases {
            assert_eq!(has_ours(options), expected);
        }
    }

    #[test]
    fn a_syn_as_linux_sends_it_changes_nothing() {
        let syn = |option: [u8; 4]| {
            let mut bytes = [
                2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7, 0, 0, 0, 0,
            ];
            if let Some(end) = bytes.last_chunk_mut() {
                *end = option;
            }
            bytes
        };
        assert!(has_ours(&syn([30, 4, 0x0f, 1])));
        assert!(!has_ours(&syn([30, 4, 0x01, 1])));
        assert!(!has_ours(&syn([1, 1, 1, 0])));
    }

    #[test]
    fn timestamps_first_change_nothing() {
        let ours = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 30, 4, 0x0f, 1];
        let dss = [
            1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 30, 8, 0x20, 1, 0, 0, 0, 1,
        ];
        assert!(has_ours(&ours));
        assert!(!has_ours(&dss));
    }
}
