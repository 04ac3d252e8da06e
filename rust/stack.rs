// SPDX-License-Identifier: GPL-2.0

//! Views of the MPTCP stack's objects: requests, subflows, options, packets.
//!
//! A view is a pointer that a hooked function got from the stack, with typed access to the fields
//! listed in `rust/c/dc.h`. Their offsets are constants of the kernel that the module was built for,
//! and `dc_layout_check()` compared them with the running one before any view could be made.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use proto::key::{
    is_low_overhead,
    KeyField, //
};
use proto::negotiate::Listener;
use proto::nonce::{
    End,
    Flow, //
};
use proto::option::mp_capable::Features;
use proto::option::Segment;

use crate::bh::BhDisabled;
use crate::bindings::*;

/// Typed access to fields of the structure behind a view.
macro_rules! fields {
    ($($(#[$meta:meta])* $get:ident / $set:ident: $type:ty = $offset:ident;)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        #[allow(dead_code)]
        pub(crate) fn $get(self) -> $type {
            // SAFETY: By the view's invariant the structure lives, and the field is at that
            // offset. The stack reads it without a lock, too, as `READ_ONCE()` does.
            unsafe { self.0.byte_add($offset as usize).cast::<$type>().read_volatile() }
        }

        $(#[$meta])*
        #[inline(always)]
        #[allow(dead_code)]
        pub(crate) fn $set(self, value: $type) {
            // SAFETY: As above; the caller holds what the stack holds where it writes the field.
            unsafe { self.0.byte_add($offset as usize).cast::<$type>().write_volatile(value) }
        }
    )*};
}

/// A view type over the C structure `$raw`.
macro_rules! view {
    ($(#[$meta:meta])* $name:ident($raw:ty)) => {
        $(#[$meta])*
        ///
        /// # Invariants
        ///
        /// Points to a live object of that type, for as long as the view exists.
        #[derive(Clone, Copy)]
        pub(crate) struct $name(NonNull<c_void>);

        impl $name {
            /// Views what a hooked function got as an argument; `None` for a null pointer.
            ///
            /// # Safety
            ///
            /// `raw` must be null or point to a live object, which outlives the view.
            #[inline(always)]
            pub(crate) unsafe fn new(raw: *const $raw) -> Option<Self> {
                // INVARIANT: By this function's requirement.
                NonNull::new(raw.cast_mut().cast()).map(Self)
            }

            /// Views what a hooked function got as an argument that is never null.
            ///
            /// # Safety
            ///
            /// `raw` must point to a live object, which outlives the view.
            #[inline(always)]
            #[allow(dead_code)]
            pub(crate) unsafe fn live(raw: *const $raw) -> Self {
                // SAFETY: By this function's requirement.
                // INVARIANT: As above.
                Self(unsafe { NonNull::new_unchecked(raw.cast_mut().cast()) })
            }

            /// The pointer, for C.
            #[inline(always)]
            #[allow(dead_code)]
            pub(crate) fn raw(self) -> *mut $raw {
                self.0.as_ptr().cast()
            }
        }
    };
}

view! {
    /// A subflow: `struct mptcp_subflow_context`.
    Subflow(mptcp_subflow_context)
}

impl Subflow {
    fields! {
        /// This host's key or key field.
        local_key / set_local_key: u64 = DC_OFF_mptcp_subflow_context__local_key;
        /// The peer's key or key field.
        remote_key / set_remote_key: u64 = DC_OFF_mptcp_subflow_context__remote_key;
        /// This host's initial data sequence number.
        idsn / set_idsn: u64 = DC_OFF_mptcp_subflow_context__idsn;
        /// This host's token.
        token / set_token: u32 = DC_OFF_mptcp_subflow_context__token;
        /// This host's nonce of an MP_JOIN.
        local_nonce / set_local_nonce: u32 = DC_OFF_mptcp_subflow_context__local_nonce;
        /// Whether the handshake is over for good.
        fully_established / set_fully_established: bool = DC_OFF_mptcp_subflow_context__fully_established;
        /// The connection.
        conn / set_conn: *mut mptcp_sock = DC_OFF_mptcp_subflow_context__conn;
    }

    /// The MPTCP part of a TCP socket; `None` for a socket without.
    ///
    /// # Safety
    ///
    /// `ssk` must be null or a live TCP socket whose upper-layer protocol, if any, is MPTCP's.
    #[inline(always)]
    pub(crate) unsafe fn of(ssk: *const sock) -> Option<Self> {
        let icsk = NonNull::new(ssk.cast_mut())?;
        // SAFETY: Every TCP socket is an `inet_connection_sock`, with the field at that offset.
        let subflow = unsafe {
            icsk.byte_add(DC_OFF_inet_connection_sock__icsk_ulp_data as usize)
                .cast::<*const mptcp_subflow_context>()
                .read_volatile()
        };
        // SAFETY: `mptcp_subflow_ctx()`; by this function's requirement it is MPTCP's.
        unsafe { Self::new(subflow) }
    }

    /// The subflow that has its initial ACK sequence number at `iasn`.
    ///
    /// # Safety
    ///
    /// `iasn` must point to the field of a live subflow.
    #[inline(always)]
    pub(crate) unsafe fn from_iasn(iasn: *const u64) -> Option<Self> {
        let offset = DC_OFF_mptcp_subflow_context__iasn as usize;
        // SAFETY: By this function's requirement.
        unsafe { Self::new(iasn.wrapping_byte_sub(offset).cast()) }
    }

    /// Whether this end is low-overhead: what it holds says so (Documentation/protocol.rst).
    #[inline(always)]
    pub(crate) fn is_low_overhead(self) -> bool {
        is_low_overhead(self.token(), self.local_key(), self.idsn())
    }

    /// Whether this end is external-key.
    #[inline(always)]
    pub(crate) fn is_external(self) -> bool {
        self.local_key() & 1 != 0 && self.is_low_overhead()
    }

    /// The connection that the subflow belongs to; `None` before it has one.
    ///
    /// # Safety
    ///
    /// The subflow must hold its connection, as one does until its socket is closed.
    #[inline(always)]
    pub(crate) unsafe fn connection(self) -> Option<Connection> {
        // SAFETY: By this function's requirement.
        unsafe { Connection::new(self.conn()) }
    }

    /// Whether this end may be low-overhead. Of a join that isn't sent yet, the data sequence number
    /// says nothing.
    #[inline(always)]
    pub(crate) fn may_be_low_overhead(self) -> bool {
        self.token() != 0 && u64::from(self.token()) == self.local_key() >> 32
    }

    /// Takes a key field, with the token and the data sequence number that it stands for.
    #[inline]
    pub(crate) fn set_key_field(self, key: KeyField) {
        self.set_local_key(key.raw());
        self.set_token(key.token().get());
        self.set_idsn(key.idsn().0);
    }
}

view! {
    /// A connection: `struct mptcp_sock`.
    Connection(mptcp_sock)
}

impl Connection {
    fields! {
        /// This host's key or key field; 0 before the handshake's answer.
        local_key / set_local_key: u64 = DC_OFF_mptcp_sock__local_key;
        /// The peer's key or key field.
        remote_key / set_remote_key: u64 = DC_OFF_mptcp_sock__remote_key;
        /// This host's token.
        token / set_token: u32 = DC_OFF_mptcp_sock__token;
    }

    /// Whether this may be an external-key connection: all that can be told without its first subflow.
    #[inline(always)]
    pub(crate) fn may_be_external(self) -> bool {
        let key = self.local_key();
        key & 1 != 0 && u64::from(self.token()) == key >> 32
    }

    /// Whether this is an external-key connection.
    #[inline]
    pub(crate) fn is_external(self) -> bool {
        // SAFETY: By the view's invariant.
        self.may_be_external() && unsafe { dc_msk_is_external(self.raw()) }
    }
}

view! {
    /// A request: `struct mptcp_subflow_request_sock`.
    Request(request_sock)
}

impl Request {
    fields! {
        /// This host's key or key field.
        local_key / set_local_key: u64 = DC_OFF_mptcp_subflow_request_sock__local_key;
        /// This host's initial data sequence number.
        idsn / set_idsn: u64 = DC_OFF_mptcp_subflow_request_sock__idsn;
        /// This host's token.
        token / set_token: u32 = DC_OFF_mptcp_subflow_request_sock__token;
    }

    /// Whether the request is low-overhead, or has the memory of one that was.
    #[inline(always)]
    pub(crate) fn has_key_field(self) -> bool {
        is_low_overhead(self.token(), self.local_key(), self.idsn())
    }

    /// Takes a key field, with the token and the data sequence number that it stands for.
    #[inline]
    pub(crate) fn set_key_field(self, key: KeyField) {
        self.set_local_key(key.raw());
        self.set_token(key.token().get());
        self.set_idsn(key.idsn().0);
    }
}

view! {
    /// The options of a segment about to be written: `struct mptcp_out_options`.
    OutOptions(mptcp_out_options)
}

impl OutOptions {
    fields! {
        /// `OPTION_MPTCP_*` bits, and [`OURS`](Self::OURS) and [`FULL`](Self::FULL).
        suboptions / set_suboptions: u16 = DC_OFF_mptcp_out_options__suboptions;
        /// Address ID of an MP_JOIN.
        join_id / set_join_id: u8 = DC_OFF_mptcp_out_options__join_id;
        /// Backup bit of an MP_JOIN, 0 or 1.
        backup / set_backup: u8 = DC_OFF_mptcp_out_options__backup;
        /// Token of an MP_JOIN.
        token / set_token: u32 = DC_OFF_mptcp_out_options__token;
        /// Sender's key of an MP_CAPABLE.
        sndr_key / set_sndr_key: u64 = DC_OFF_mptcp_out_options__sndr_key;
        /// Receiver's key of an MP_CAPABLE or MP_FASTCLOSE.
        rcvr_key / set_rcvr_key: u64 = DC_OFF_mptcp_out_options__rcvr_key;
    }

    /// Any MP_JOIN.
    pub(crate) const MPJ: u16 = (DC_MPJ_SYN | DC_MPJ_SYNACK | DC_MPJ_ACK) as u16;

    /// Any handshake option: MP_CAPABLE or MP_JOIN.
    pub(crate) const HANDSHAKE: u16 = (DC_MPC_SYN | DC_MPC_SYNACK | DC_MPC_ACK) as u16 | Self::MPJ;

    /// An MP_FASTCLOSE.
    pub(crate) const FASTCLOSE: u16 = DC_FASTCLOSE as u16;

    /// All suboptions of the SYN/ACK of an MP_CAPABLE of ours. The flags are in `join_id`.
    pub(crate) const CAPABLE_ANSWER: u16 = Self::OURS | DC_MPC_SYNACK as u16;

    /// All suboptions of the SYN/ACK of an MP_JOIN of ours.
    pub(crate) const JOIN_ANSWER: u16 = Self::OURS | DC_MPJ_SYNACK as u16;

    /// The option is to be written in our form. The stack doesn't use the bit.
    pub(crate) const OURS: u16 = 1 << 15;

    /// The SYN is to carry the key field. The stack doesn't use the bit.
    pub(crate) const FULL: u16 = 1 << 14;

    /// Sets bits in `suboptions`.
    #[inline]
    pub(crate) fn mark(self, bits: u16) {
        self.set_suboptions(self.suboptions() | bits);
    }
}

view! {
    /// The options that a segment brought: `struct mptcp_options_received`.
    Received(mptcp_options_received)
}

impl Received {
    fields! {
        /// The sender's key.
        sndr_key / set_sndr_key: u64 = DC_OFF_mptcp_options_received__sndr_key;
        /// The receiver's key, echoed.
        rcvr_key / set_rcvr_key: u64 = DC_OFF_mptcp_options_received__rcvr_key;
        /// Data sequence number of a mapping.
        data_seq / set_data_seq: u64 = DC_OFF_mptcp_options_received__data_seq;
        /// Relative subflow sequence number of a mapping.
        subflow_seq / set_subflow_seq: u32 = DC_OFF_mptcp_options_received__subflow_seq;
        /// Bytes of a mapping.
        data_len / set_data_len: u16 = DC_OFF_mptcp_options_received__data_len;
        /// Checksum of a mapping, as on the wire.
        csum / set_csum: [u8; 2] = DC_OFF_mptcp_options_received__csum;
    }
}

view! {
    /// A received TCP segment.
    Packet(sk_buff)
}

impl Packet {
    fields! {
        /// Bytes from the TCP header on.
        len / set_len: u32 = DC_OFF_sk_buff__len;
        head / set_head: *const u8 = DC_OFF_sk_buff__head;
        transport_header / set_transport_header: u16 = DC_OFF_sk_buff__transport_header;
        network_header / set_network_header: u16 = DC_OFF_sk_buff__network_header;
        /// Ethernet protocol number, as on the wire.
        protocol / set_protocol: [u8; 2] = DC_OFF_sk_buff__protocol;
    }

    /// The TCP header's fixed part and its options.
    ///
    /// TCP checked that all of it is in the packet's linear part before any function of MPTCP saw
    /// the packet (`tcp_v4_rcv()`, `tcp_v6_rcv()`).
    #[inline(always)]
    fn tcp(&self) -> (&[u8; 20], &[u8]) {
        // SAFETY: As said above.
        unsafe {
            let header = self
                .head()
                .add(usize::from(self.transport_header()))
                .cast::<[u8; 20]>();
            let length = usize::from((*header)[12] >> 4) * 4;
            let options = length.saturating_sub(20);
            (
                &*header,
                core::slice::from_raw_parts(header.add(1).cast(), options),
            )
        }
    }

    fn tcp_header(&self) -> *const tcphdr {
        core::ptr::from_ref(self.tcp().0).cast()
    }

    /// The TCP options.
    #[inline(always)]
    pub(crate) fn options(&self) -> &[u8] {
        self.tcp().1
    }

    /// The sequence number.
    #[inline]
    pub(crate) fn seq(&self) -> u32 {
        let ([_, _, _, _, a, b, c, d, ..], _) = self.tcp();
        u32::from_be_bytes([*a, *b, *c, *d])
    }

    /// Whether it resets its connection.
    #[inline]
    pub(crate) fn is_reset(&self) -> bool {
        let ([.., flags, _, _, _, _, _, _], _) = self.tcp();
        flags & 0x04 != 0
    }

    /// What part of a handshake the segment can be.
    #[inline]
    pub(crate) fn segment(&self) -> Segment {
        let (header, options) = self.tcp();
        let [.., flags, _, _, _, _, _, _] = *header;
        let payload = self.len() as usize > options.len() + 20;
        Segment::of(flags & 0x02 != 0, flags & 0x10 != 0, payload)
    }

    /// The connection that the segment belongs to, as this host, its receiver, sees it; `None` if it
    /// is neither IPv4 nor IPv6.
    #[inline]
    pub(crate) fn flow(&self, netns: u64) -> Option<Flow> {
        self.flow_v4(netns).or_else(|| self.flow_v6(netns))
    }

    /// [`flow`](Self::flow) for IPv4.
    #[inline(always)]
    pub(crate) fn flow_v4(&self, netns: u64) -> Option<Flow> {
        Some(self.v4()?.flow(netns))
    }

    /// It, if it came over IPv4.
    #[inline(always)]
    pub(crate) fn v4(&self) -> Option<PacketV4> {
        /// `ETH_P_IP`
        const IPV4: u16 = 0x0800;

        // INVARIANT: As is checked.
        (self.protocol() == IPV4.to_be_bytes()).then_some(PacketV4(*self))
    }

    fn flow_v6(&self, netns: u64) -> Option<Flow> {
        /// `ETH_P_IPV6`
        const IPV6: u16 = 0x86dd;

        if self.protocol() != IPV6.to_be_bytes() {
            return None;
        }
        // SAFETY: An IPv6 header has 40 bytes, the addresses last.
        let (local, remote) = unsafe { self.ends(8) };
        Some(Flow::v6(netns, local, remote))
    }

    /// The ends of the connection, local end first.
    ///
    /// # Safety
    ///
    /// The IP header must have its two addresses at `offset`.
    #[inline(always)]
    unsafe fn ends<const N: usize>(&self, offset: usize) -> (End<N>, End<N>) {
        let header = core::ptr::from_ref(self.tcp().0);
        // SAFETY: A TCP header begins with the ports.
        let [remote_port, local_port] = unsafe { header.cast::<[[u8; 2]; 2]>().read() };
        // SAFETY: TCP ran behind IP, so the IP header is in the packet's linear part; the rest by this
        // function's requirement.
        let [remote, local] = unsafe {
            let ip = self.head().add(usize::from(self.network_header()));
            ip.add(offset).cast::<[[u8; N]; 2]>().read_unaligned()
        };
        let end = |addr, port| End { addr, port };
        (end(local, local_port), end(remote, remote_port))
    }
}

/// A packet over IPv4.
///
/// # Invariants
///
/// Its IP header is one of IPv4.
#[derive(Clone, Copy)]
pub(crate) struct PacketV4(Packet);

impl PacketV4 {
    /// Its connection, as of the host that received it.
    #[inline(always)]
    pub(crate) fn flow(&self, netns: u64) -> Flow {
        // SAFETY: By the type's invariant; an IPv4 header has 20 bytes, the addresses last.
        let (local, remote) = unsafe { self.0.ends(12) };
        Flow::v4(netns, local, remote)
    }
}

/// The connection of a socket, with zeros for what isn't known before it is routed.
///
/// # Safety
///
/// `sk` must be a live TCP socket.
pub(crate) unsafe fn flow_of_sock(sk: *const sock, netns: Netns) -> Flow {
    let mut ends = MaybeUninit::uninit();
    // SAFETY: By this function's requirement; `dc_sock_ends` fills it.
    let ends = unsafe {
        dc_sock_ends(sk, ends.as_mut_ptr());
        ends.assume_init()
    };
    let local = End {
        addr: ends.local_addr,
        port: ends.local_port,
    };
    let remote = End {
        addr: ends.remote_addr,
        port: ends.remote_port,
    };
    Flow::v6(netns.cookie(), local, remote)
}

/// What a client offers.
pub(crate) struct Offer {
    /// External keys, else low overhead.
    pub(crate) external: bool,
}

/// Whether any application ever set one of our socket options.
#[inline(always)]
pub(crate) fn apps_used() -> bool {
    // SAFETY: It only ever becomes true.
    unsafe { (&raw const dc_apps_used).read_volatile() }
}

/// What the module keeps for a network namespace.
///
/// # Invariants
///
/// Points to the `dc_netns` of a network namespace that lives as long as this.
#[derive(Clone, Copy)]
pub(crate) struct Netns(NonNull<dc_netns>);

impl Netns {
    /// That of a live socket.
    ///
    /// # Safety
    ///
    /// `sk` must be a live socket.
    #[inline]
    pub(crate) unsafe fn of_sock(sk: *const sock) -> Option<Self> {
        // SAFETY: A live socket holds its network namespace.
        NonNull::new(unsafe { dc_netns_of(dc_sock_net(sk)) }).map(Self)
    }

    /// That of the request or connection that holds `key` as its own and received `packet`; `None`
    /// if there is no such.
    #[inline]
    pub(crate) fn of_key_owner(key: KeyField, packet: Packet) -> Option<Self> {
        // SAFETY: The packet has a TCP header. The namespace of a packet that is being received
        // lives, and the owner has received this one.
        NonNull::new(unsafe { dc_token_owner(key.token().get(), key.raw(), packet.tcp_header()) })
            .map(Self)
    }

    /// The pointer, for C.
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut dc_netns {
        self.0.as_ptr()
    }

    /// `net.mptcp_dc.lowoverhead`. A sysctl may be writing it.
    #[inline]
    fn mode(&self) -> u8 {
        // SAFETY: By the type's invariant.
        unsafe { (&raw const (*self.0.as_ptr()).lowoverhead).read_volatile() }
    }

    /// That of a listener on which the stack would look at an MP_CAPABLE, or (`join`) MP_JOIN, and what
    /// of ours it takes.
    ///
    /// # Safety
    ///
    /// `listener` must be a live MPTCP listener.
    #[inline]
    pub(crate) unsafe fn of_listener(
        listener: *const sock,
        join: bool,
        _bh: &BhDisabled,
    ) -> Option<(Self, Listener)> {
        // SAFETY: By this function's requirement; softirqs are disabled.
        let of = unsafe { dc_listener_of(listener, join) };
        let takes = Listener {
            accept: of.accept,
            // The checksum and join flags of an answer are the stack's to write.
            features: Features {
                external: of.external,
                ..Features::default()
            },
        };
        Some((Self(NonNull::new(of.netns)?), takes))
    }

    /// That of a listener which takes low-overhead MP_CAPABLEs, unless an application has set options on this host; counts
    /// the SYN, for the stack, too.
    ///
    /// # Safety
    ///
    /// `listener` must be a live MPTCP listener.
    #[inline(always)]
    pub(crate) unsafe fn take_syn(
        listener: *const sock,
        counter: dc_counter,
        _bh: &BhDisabled,
    ) -> Option<Self> {
        // SAFETY: By this function's requirement; softirqs are disabled.
        NonNull::new(unsafe { dc_listener_take_syn(listener, counter) }).map(Self)
    }

    /// Whether the subflow `ssk` is to offer a handshake of ours, and with external keys: its socket's
    /// options, or `lowoverhead` is 2.
    ///
    /// # Safety
    ///
    /// `ssk` must be a live subflow's socket of this namespace.
    #[inline]
    pub(crate) unsafe fn offer(&self, ssk: *const sock) -> Option<Offer> {
        let mut external = false;
        if apps_used() || self.mode() >= 2 {
            // SAFETY: By this function's requirement.
            let mode = unsafe { dc_connect_mode(ssk, &mut external) };
            if mode >= 2 || external {
                return Some(Offer { external });
            }
        }
        None
    }

    /// Whether clients here send the full SYN.
    #[inline]
    pub(crate) fn sends_full_syn(&self) -> bool {
        // SAFETY: By the type's invariant. A sysctl may be writing it.
        unsafe { (&raw const (*self.0.as_ptr()).syn_token).read_volatile() != 0 }
    }

    /// Whether a low-overhead MP_JOIN SYN is to leave nothing behind here.
    #[inline]
    pub(crate) fn joins_stateless(&self) -> bool {
        // SAFETY: By the type's invariant. A sysctl may be writing it.
        unsafe { (&raw const (*self.0.as_ptr()).stateless_join).read_volatile() != 0 }
    }

    /// Whether standard MPTCP takes keys and nonces from a hash here: `derived_nonces` is 1.
    #[inline]
    pub(crate) fn derives(&self) -> bool {
        // SAFETY: By the type's invariant. A sysctl may be writing it.
        unsafe { (&raw const (*self.0.as_ptr()).derived_nonces).read_volatile() != 0 }
    }

    /// What stands for the namespace in keyed hashes.
    #[inline]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: By the type's invariant; it never changes.
        unsafe { (*self.0.as_ptr()).cookie }
    }

    /// Counts an MP_CAPABLE SYN to `listener`, for the stack, too.
    ///
    /// # Safety
    ///
    /// `listener` must be a live socket of this namespace.
    #[inline]
    pub(crate) unsafe fn count_syn(&self, listener: *const sock, counter: dc_counter) {
        // SAFETY: By this function's requirement and the type's invariant.
        unsafe { dc_count_syn(listener, self.0.as_ptr(), counter) }
    }

    /// Counts a fallback for want of a token, for the stack, too.
    ///
    /// # Safety
    ///
    /// `sk` must be a live socket of this namespace.
    pub(crate) unsafe fn count_fallback(&self, sk: *const sock) {
        // SAFETY: By this function's requirement and the type's invariant.
        unsafe { dc_count_fallback(self.0.as_ptr(), dc_sock_net(sk)) }
    }

    /// Counts an event.
    #[inline]
    pub(crate) fn count(&self, counter: dc_counter) {
        // SAFETY: By the type's invariant.
        unsafe { dc_count(self.0.as_ptr(), counter) }
    }
}
