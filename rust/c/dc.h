/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The border between the module's Rust and its C.
 *
 * C stands only where Rust can't: macros (static calls, per-CPU variables, bit
 * fields), inline kernel functions, and the structures of net/mptcp/. bindgen
 * reads this file, so a constant, a field or a counter is named once, here.
 */
#ifndef MPTCP_DC_H
#define MPTCP_DC_H

#include <linux/types.h>
#include <linux/skbuff.h>
#include <linux/sockptr.h>
#include <linux/tcp.h>
#include <net/netns/generic.h>
#include <net/sock.h>
#include <net/request_sock.h>

/* As net/mptcp/token.c has it; dc_layout_check() compares. */
struct dc_token_bucket {
	spinlock_t		lock;	/* guards the rest */
	int			chain_len;
	struct hlist_nulls_head	req_chain;
	struct hlist_nulls_head	msk_chain;
};

/*
 * Every field of a kernel structure that Rust reads or writes, as
 * X(structure, field). Rust gets its offset, DC_OFF_structure__field; at load,
 * dc_layout_check() compares the offset, and the structure's size, with the running
 * kernel's BTF.
 */
#define DC_FIELDS(X)						\
	X(sk_buff, len)						\
	X(sk_buff, head)					\
	X(sk_buff, protocol)					\
	X(sk_buff, transport_header)				\
	X(sk_buff, network_header)				\
	X(mptcp_out_options, suboptions)			\
	X(mptcp_out_options, sndr_key)				\
	X(mptcp_out_options, join_id)				\
	X(mptcp_out_options, backup)				\
	X(mptcp_out_options, token)				\
	X(mptcp_out_options, rcvr_key)				\
	X(mptcp_options_received, sndr_key)			\
	X(mptcp_options_received, rcvr_key)			\
	X(mptcp_options_received, data_seq)			\
	X(mptcp_options_received, subflow_seq)			\
	X(mptcp_options_received, data_len)			\
	X(mptcp_options_received, csum)				\
	X(mptcp_options_received, suboptions)			\
	X(mptcp_subflow_request_sock, local_key)		\
	X(mptcp_subflow_request_sock, idsn)			\
	X(mptcp_subflow_request_sock, token)			\
	X(mptcp_subflow_request_sock, ssn_offset)		\
	X(mptcp_subflow_context, local_key)			\
	X(mptcp_subflow_context, remote_key)			\
	X(mptcp_subflow_context, idsn)				\
	X(mptcp_subflow_context, token)				\
	X(mptcp_subflow_context, iasn)				\
	X(mptcp_subflow_context, fully_established)		\
	X(mptcp_subflow_context, local_nonce)			\
	X(mptcp_subflow_context, conn)				\
	X(mptcp_sock, local_key)				\
	X(mptcp_sock, remote_key)				\
	X(mptcp_sock, token)					\
	X(mptcp_sock, fully_established)			\
	X(mptcp_sock, first)					\
	X(inet_connection_sock, icsk_ulp_data)

/* Structures that only C touches, checked like the fields above. */
#define DC_C_FIELDS(X)						\
	X(token_bucket, lock, dc_token_bucket)			\
	X(token_bucket, chain_len, dc_token_bucket)		\
	X(token_bucket, req_chain, dc_token_bucket)		\
	X(token_bucket, msk_chain, dc_token_bucket)		\
	X(mptcp_subflow_request_sock, token_node, mptcp_subflow_request_sock) \
	X(mptcp_subflow_request_sock, msk, mptcp_subflow_request_sock) \
	X(mptcp_subflow_request_sock, local_id, mptcp_subflow_request_sock) \
	X(mptcp_subflow_request_sock, remote_id, mptcp_subflow_request_sock) \
	X(mptcp_subflow_request_sock, thmac, mptcp_subflow_request_sock) \
	X(mptcp_subflow_request_sock, local_nonce, mptcp_subflow_request_sock) \
	X(mptcp_subflow_request_sock, remote_nonce, mptcp_subflow_request_sock) \
	X(mptcp_subflow_context, remote_token, mptcp_subflow_context) \
	X(mptcp_subflow_context, local_id, mptcp_subflow_context) \
	X(mptcp_subflow_context, snd_isn, mptcp_subflow_context) \
	X(mptcp_subflow_context, hmac, mptcp_subflow_context)	\
	X(mptcp_options_received, join_id, mptcp_options_received) \
	X(mptcp_options_received, token, mptcp_options_received) \
	X(mptcp_options_received, nonce, mptcp_options_received) \
	X(mptcp_options_received, thmac, mptcp_options_received) \
	X(mptcp_options_received, hmac, mptcp_options_received) \
	X(mptcp_sock, pm, mptcp_sock)				\
	X(mptcp_sock, flags, mptcp_sock)			\
	X(mptcp_sock, ack_seq, mptcp_sock)			\
	X(mptcp_sock, snd_una, mptcp_sock)			\
	X(mptcp_sock, rcv_fastclose, mptcp_sock)		\
	X(inet_connection_sock, icsk_retransmits, inet_connection_sock) \
	X(tcp_sock, snd_una, tcp_sock)				\
	X(tcp_sock, md5sig_info, tcp_sock)			\
	X(tcp_sock, rx_opt, tcp_sock)				\
	X(tcp_sock, fastopen_req, tcp_sock)			\
	X(sock, sk_lock, sock)					\
	X(sock, sk_ack_backlog, sock)				\
	X(sock, sk_max_ack_backlog, sock)			\
	X(sock, sk_drops, sock)					\
	X(request_sock, mss, request_sock)			\
	X(request_sock, ts_recent, request_sock)		\
	X(inet_request_sock, ir_mark, inet_request_sock)	\
	X(tcp_request_sock, af_specific, tcp_request_sock)	\
	X(tcp_request_sock, snt_synack, tcp_request_sock)	\
	X(tcp_request_sock, is_mptcp, tcp_request_sock)		\
	X(tcp_request_sock, txhash, tcp_request_sock)		\
	X(tcp_request_sock, rcv_isn, tcp_request_sock)		\
	X(tcp_request_sock, snt_isn, tcp_request_sock)		\
	X(tcp_request_sock, ts_off, tcp_request_sock)		\
	X(tcp_request_sock, rcv_nxt, tcp_request_sock)		\
	X(tcp_request_sock, syn_tos, tcp_request_sock)		\
	X(tcp_request_sock, accecn_ok, tcp_request_sock)	\
	X(tcp_request_sock_ops, mss_clamp, tcp_request_sock_ops) \
	X(netns_ipv4, sysctl_tcp_syncookies, netns_ipv4)	\
	X(netns_ipv4, sysctl_tcp_ecn, netns_ipv4)		\
	X(net, ipv4, net)

/* Bit fields that C reads or writes for Rust, as X(structure, field). */
#define DC_BITS(X)						\
	X(mptcp_subflow_context, request_mptcp)			\
	X(mptcp_subflow_context, request_join)			\
	X(mptcp_subflow_context, request_bkup)			\
	X(mptcp_subflow_context, mp_capable)			\
	X(mptcp_subflow_context, conn_finished)			\
	X(mptcp_subflow_context, remote_key_valid)		\
	X(mptcp_subflow_context, pm_listener)			\
	X(mptcp_subflow_context, mpc_drop)			\
	X(mptcp_subflow_request_sock, mp_capable)		\
	X(mptcp_subflow_request_sock, mp_join)			\
	X(mptcp_subflow_request_sock, backup)			\
	X(mptcp_subflow_request_sock, request_bkup)		\
	X(mptcp_subflow_request_sock, csum_reqd)		\
	X(mptcp_subflow_request_sock, allow_join_id0)		\
	X(mptcp_options_received, backup)			\
	X(mptcp_out_options, csum_reqd)			\
	X(mptcp_out_options, allow_join_id0)			\
	X(mptcp_options_received, use_map)			\
	X(mptcp_options_received, dsn64)			\
	X(mptcp_options_received, mpc_map)			\
	X(mptcp_options_received, deny_join_id0)		\
	X(request_sock, syncookie)				\
	X(inet_request_sock, tstamp_ok)				\
	X(inet_request_sock, ecn_ok)				\
	X(inet_request_sock, no_srccheck)

/*
 * Events counted per network namespace, as X(NAME, "name in
 * /proc/net/mptcp_dc"). Documentation/counters.rst says what each means.
 */
#define DC_COUNTERS(X)						\
	X(MPC_SYN_COMPACT_RX, "MPCapableSYNCompactRX")		\
	X(MPC_SYN_FULL_RX, "MPCapableSYNFullRX")		\
	X(MPC_SYN_TX, "MPCapableSYNTX")				\
	X(MPC_SYNACK_RX, "MPCapableSYNACKRX")			\
	X(MPC_SYNACK_STANDARD, "MPCapableSYNACKStandard")	\
	X(MPC_SYNACK_NONE, "MPCapableSYNACKNone")		\
	X(MPC_SYNACK_BAD, "MPCapableSYNACKBad")			\
	X(MPC_ACK_RX, "MPCapableACKRX")				\
	X(MPC_COOKIE_ACK_RX, "MPCapableCookieACKRX")		\
	X(MPC_COOKIE_NOT_OWN, "MPCapableCookieNotOwn")		\
	X(JOIN_SYN_TX, "MPJoinSYNTX")				\
	X(JOIN_SYN_RX, "MPJoinSYNRX")				\
	X(JOIN_SYN_BAD, "MPJoinSYNBad")				\
	X(JOIN_SYN_STATELESS, "MPJoinSYNStateless")		\
	X(JOIN_SYNACK_RX, "MPJoinSYNACKRX")			\
	X(JOIN_SYNACK_BAD, "MPJoinSYNACKBad")			\
	X(JOIN_ACK_RX, "MPJoinACKRX")				\
	X(JOIN_ACK_BAD, "MPJoinACKBad")				\
	X(JOIN_COOKIE_ACK_RX, "MPJoinCookieACKRX")		\
	X(JOIN_NO_TOKEN, "MPJoinNoToken")			\
	X(KEY_DERIVED, "KeyDerived")				\
	X(NONCE_DERIVED, "JoinNonceDerived")			\
	X(JOIN_NO_KEY, "MPJoinNoKey")				\
	X(EXTERNAL_REFUSED, "ExternalKeyRefused")		\
	X(APP_KEY_SET, "ExternalKeySet")			\
	X(TOKEN_BUSY, "TokenBusy")				\
	X(TOKEN_FALLBACK, "TokenFallback")			\
	X(TOKEN_REKEY, "TokenRekey")				\
	X(OFFER_GIVEN_UP, "OfferGivenUp")			\
	X(FASTCLOSE_BAD, "MPFastcloseBad")

enum dc_counter {
#define X(name, text) DC_COUNT_##name,
	DC_COUNTERS(X)
#undef X
	DC_COUNT_NR
};

struct dc_counters {
	u64 value[DC_COUNT_NR];
};

/* What the module keeps for a network namespace; a module's lifetime. */
struct dc_netns {
	u8	lowoverhead;	/* net.mptcp_dc.lowoverhead: 0, 1, 2 */
	u8	syn_token;	/* net.mptcp_dc.syn_token: 0, 1 */
	u8	stateless_join;	/* net.mptcp_dc.stateless_join: 0, 1 */
	u8	derived_nonces;	/* net.mptcp_dc.derived_nonces: 0, 1 */
	u8	app_key;	/* net.mptcp_dc.app_key: 0, 1 */
	u64	cookie;		/* names the namespace in keyed hashes */
	struct dc_counters __percpu	*counters;
	struct dc_sysctls		*sysctls;
};

/* A sysctl that hooks stand for while some namespace has it above 0. */
enum dc_switch {
	DC_SWITCH_LOWOVERHEAD,
	DC_SWITCH_STATELESS_JOIN,
	DC_SWITCH_NONE,		/* a sysctl that hooks don't stand for */
};

/* The counters of tokens a CPU has taken, for it alone to write. */
struct dc_cursor {
	u32	epoch;		/* of the secret that the cursor belongs to */
	u32	taken;		/* proto::token::Slices' cursor */
	u32	slice;		/* this CPU's number */
	u32	full_at;	/* the dc_tick() in which no free token was found */
	u32	first;		/* proto::token::Stretch of the slice */
	u32	end;
	/* The original of a hooked function runs on this packet, whose options are ours. */
	const struct sk_buff	*packet;
	/* Its HMACs are under these keys, and are to be nought; 0: it is no join. */
	u64	local_key;
	u64	remote_key;
	/* Unless they are to be under this connection's key, or the one before; NULL: nought. */
	const struct mptcp_sock	*app;
	bool	previous;
	u64	peer_key;	/* of the connection that a subflow was last asked to join here */
	u64	ahmac;		/* the HMAC of the ADD_ADDR that this CPU is checking; 0: none */
	/* The SYN that subflow_check_req() was last called with here, and its options from MPTCP's first on. */
	const struct sk_buff	*syn;
	const u8	*options;
	size_t	options_length;
} ____cacheline_aligned_in_smp;

/* The fields of an MP_JOIN. Low-overhead ones have neither nonce nor HMAC. */
struct dc_join {
	u32	token;		/* of the host that is joined */
	u32	nonce;		/* of the host that joins */
	u8	hmac[16];	/* of an ACK */
	u8	address_id;
	bool	backup;
	bool	external;
};

/* How a listener takes handshakes of ours. In two registers. */
struct dc_listener {
	struct dc_netns	*netns;		/* NULL: not at all */
	bool		accept;		/* low-overhead ones */
	bool		external;	/* external-key ones, and no other MPTCP */
};

/* A request of an MP_JOIN of ours: its connection's keys, and its own fields. */
struct dc_join_request {
	u64	local_key;
	u64	remote_key;
	u32	token;
	u32	local_nonce;
	u32	remote_nonce;
	bool	external;
	bool	verified;	/* its ACK's HMAC, when the request was made of it */
	struct mptcp_sock	*msk;
};

/* The handshake option that a SYN has by RFC 8684. */
struct dc_standard_syn {
	u16		suboption;	/* OPTION_MPTCP_MPC_SYN, OPTION_MPTCP_MPJ_SYN or 0 */
	struct dc_join	join;		/* of an MP_JOIN */
};

/*
 * The ends of a socket's connection, so far as they are known: network byte
 * order, IPv4 addresses mapped into IPv6.
 */
struct dc_ends {
	u8	local_addr[16];
	u8	remote_addr[16];
	u8	local_port[2];
	u8	remote_port[2];
};

struct btf;
struct dc_sysctls;
struct mptcp_sock;
struct mptcp_out_options;
struct mptcp_options_received;
struct mptcp_subflow_context;
struct mptcp_subflow_request_sock;

/* symbols.c: finding and calling functions of the kernel */

/* Never defined: the types of functions that no header of the kernel declares. */
unsigned long dc_proto_lookup_name(const char *name);
const char *dc_proto_btf_name(const struct btf *btf, u32 offset);
int dc_proto_lookup_size(unsigned long addr, unsigned long *size, unsigned long *offset);
unsigned long dc_proto_ftrace_location(unsigned long ip);
int dc_proto_request(struct request_sock *req, const struct sock *listener,
		     struct sk_buff *skb);
void dc_proto_finish_connect(struct sock *ssk, const struct sk_buff *skb);
int dc_proto_conn_request(struct sock *sk, struct sk_buff *skb);

int dc_symbols_init(void);
unsigned long dc_symbol(const char *name);
unsigned long dc_symbol_if_any(const char *name);
unsigned long dc_ftrace_location(unsigned long address);
bool dc_symbol_range(unsigned long address, unsigned long *size);
void dc_original_set(const char *name, unsigned long entry);
bool dc_orig_syn_options(struct sock *ssk, const struct sk_buff *skb,
			 unsigned int *size, struct mptcp_out_options *opts);
bool dc_orig_synack_options(const struct request_sock *req, unsigned int *size,
			    struct mptcp_out_options *opts);
void dc_orig_write_options(struct tcphdr *th, __be32 *ptr, struct tcp_sock *tp,
			   struct mptcp_out_options *opts);
void dc_orig_get_options(const struct sk_buff *skb,
			 struct mptcp_options_received *mp_opt);
int dc_orig_check_req(struct request_sock *req, const struct sock *listener,
		      struct sk_buff *skb);
int dc_orig_init_cookie_req(struct request_sock *req,
			    const struct sock *listener, struct sk_buff *skb);
void dc_orig_finish_connect(struct sock *ssk, const struct sk_buff *skb);
int dc_orig_token_new_connect(struct sock *ssk);
int dc_orig_v4_conn_request(struct sock *sk, struct sk_buff *skb);
int dc_orig_v6_conn_request(struct sock *sk, struct sk_buff *skb);
void dc_orig_key_sha(u64 key, u32 *token, u64 *idsn);
struct sock *dc_orig_syn_recv_sock(const struct sock *listener, struct sk_buff *skb,
				   struct request_sock *req, struct dst_entry *dst,
				   struct request_sock *req_unhash, bool *own_req,
				   void (*opt_child_init)(struct sock *newsk,
							  const struct sock *sk));
void dc_orig_pm_fully_established(struct mptcp_sock *msk, const struct sock *ssk);
unsigned int dc_orig_add_addr_timeout(struct mptcp_sock *msk);
int dc_orig_established_options(struct sock *ssk, struct sk_buff *skb, unsigned int remaining,
				bool has_ts, struct mptcp_out_options *opts);
void dc_orig_hmac_sha(u64 key1, u64 key2, u8 *msg, int len, void *hmac);
bool dc_orig_try_fallback(struct mptcp_sock *msk, int fb_mib);
void dc_orig_detect_blackhole(struct sock *ssk, bool expired);
bool dc_orig_incoming_options(struct sock *ssk, struct sk_buff *skb);
bool dc_schedule_work(struct sock *sk);
struct sock *dc_first_subflow(struct mptcp_sock *msk);
const char *dc_btf_name(const struct btf *btf, u32 offset);
void dc_btf_release(struct btf *btf);
bool dc_checksum_required(const struct net *net);
bool dc_join_id0_allowed(const struct net *net);
int dc_pm_local_id(struct mptcp_sock *msk, struct sock_common *skc);
bool dc_pm_is_backup(struct mptcp_sock *msk, struct sock_common *skc);
bool dc_pm_announced(struct mptcp_sock *msk, const struct sock *ssk);
bool dc_userspace_pm_active(const struct mptcp_sock *msk);
int dc_token_new_request(struct request_sock *req);
void dc_cookie_join_save(const struct mptcp_subflow_request_sock *subflow_req, struct sk_buff *skb);

/* tokens.c: the stack's token table, and the CPUs' cursors */
int dc_tokens_init(void);
struct mptcp_sock *dc_token_find(u32 token);
struct mptcp_sock *dc_token_get(struct net *net, u32 token);
bool dc_token_add_request(struct request_sock *req);
bool dc_request_accept(struct request_sock *req, const struct sk_buff *skb);
bool dc_token_add_connect(struct sock *ssk);
bool dc_token_add_standard(struct sock *ssk, u64 key);
unsigned int dc_token_mask(void);
struct dc_token_bucket *dc_token_bucket_at(unsigned int number);
struct dc_netns *dc_token_owner(u32 token, u64 local_key, const struct tcphdr *th);
void dc_token_release(struct sock *ssk);
DECLARE_PER_CPU_ALIGNED(struct dc_cursor, dc_cursors);	/* in Rust: cursor_here() */
void dc_bh_disable(void);
void dc_bh_enable(void);
u32 dc_tick(void);
void dc_rekey_schedule(void);
void dc_rekey_cancel(void);
void dc_rekey(void);				/* in Rust */
u32 dc_cursor_of(u32 cpu, u32 epoch);
u32 dc_cpus(void);
u64 dc_time_epoch(void);

/* netns.c: sysctls and counters per network namespace */
extern unsigned int dc_netns_id;

/* dc_netns_of() with softirqs disabled, which makes the caller an RCU reader. */
static inline struct dc_netns *dc_netns_of_bh(const struct net *net)
{
	return rcu_dereference_raw(net->gen)->ptr[dc_netns_id];
}

/* Without a check of the counter, which callers name. */
static inline void dc_count_one(struct dc_netns *ns, enum dc_counter counter)
{
	u64 __percpu *first = ns->counters->value;

	this_cpu_inc(first[counter]);
}

/* A task that waits in code of the module; on its stack. */
struct dc_busy {
	struct list_head	node;
	pid_t			pid;
	char			comm[TASK_COMM_LEN];
};

bool dc_busy_begin(struct dc_busy *busy);
void dc_busy_end(struct dc_busy *busy);
int dc_netns_init(void);
void dc_netns_clear(void);
void dc_netns_exit(void);
struct dc_netns *dc_netns_of(const struct net *net);
struct net *dc_sock_net(const struct sock *sk);
bool dc_listener_derives(const struct sock *listener);
void dc_count(struct dc_netns *ns, enum dc_counter counter);
void dc_count_syn(const struct sock *listener, struct dc_netns *ns, enum dc_counter counter);
void dc_count_fallback(struct dc_netns *ns, struct net *net);

/* stack.c: bit fields and inline functions of the stack's objects */
struct dc_listener dc_listener_of(const struct sock *listener, bool join);
struct dc_netns *dc_listener_take_syn(const struct sock *listener, enum dc_counter counter);
u8 dc_connect_mode(const struct sock *ssk, bool *external);
void dc_request_init(struct request_sock *req, const struct sock *listener);
bool dc_request_accept_cookie(struct request_sock *req, const struct sk_buff *skb);
void dc_parse_standard_syn(const struct sk_buff *skb, struct dc_standard_syn *syn);
bool dc_request_accept_standard(struct request_sock *req, const struct sk_buff *skb, u64 key);
bool dc_request_answer(const struct request_sock *req, unsigned int *size,
		       struct mptcp_out_options *opts, u16 mark, unsigned int join_size);
bool dc_subflow_awaits_synack(const struct sock *ssk);
bool dc_is_connecting_subflow(const struct sock *ssk);
bool dc_fastopen_requested(const struct sock *ssk);
void dc_sock_ends(const struct sock *sk, struct dc_ends *ends);
u8 dc_out_flags(const struct mptcp_out_options *opts);
void dc_received_capable(struct mptcp_options_received *mp_opt, u16 suboption,
			 bool checksum, bool deny_join);
void dc_received_mapping(struct mptcp_options_received *mp_opt);
bool dc_subflow_is_low_overhead(const struct mptcp_subflow_context *subflow);
bool dc_subflow_restart(struct sock *ssk);
bool dc_subflow_give_up(struct sock *ssk);
bool dc_detect_blackhole(struct sock *ssk, bool expired);
int dc_standard_connect(struct sock *ssk);	/* in Rust */
void dc_subflow_refuse(struct sock *ssk);

/* settle.c: what is under way, and what becomes of it without the module */
enum dc_survey {
	DC_SURVEY_HANDSHAKE	= BIT(0),	/* an MP_CAPABLE of ours may be sent or come */
	DC_SURVEY_EXTERNAL	= BIT(1),	/* there is an external-key connection */
};

u32 dc_survey(void);
void dc_subflow_disable(struct sock *ssk);
unsigned int dc_settle(bool force);

/* The lock of a socket as softirqs take it. A task may own the socket all the same. */
static inline void dc_sock_lock(struct sock *sk)
{
	spin_lock_bh(&sk->sk_lock.slock);
}

static inline void dc_sock_unlock(struct sock *sk)
{
	spin_unlock_bh(&sk->sk_lock.slock);
}

void dc_wait_for_tasks(void);			/* in Rust: hook::wait_for_tasks() */

/* rust/control.rs: which hooks stand, and for whom */
int dc_switch_store(enum dc_switch which, u8 *value, u8 is);
int dc_wire_get(bool may_sleep);
void dc_wire_put(void);
void dc_app_added(void);
void dc_app_removed(void);
void dc_control_work(void);
void dc_control_schedule(u32 seconds);
void dc_control_cancel(void);

/* join.c: MP_JOIN, mostly without HMAC */
int dc_join_syn(struct request_sock *req, const struct sock *listener, struct sk_buff *skb,
		const struct dc_join *join, struct dc_netns *ns, u32 standard_nonce);
int dc_join_cookie_ack(struct request_sock *req, const struct sock *listener, struct sk_buff *skb,
		       const struct dc_join *join);
void dc_join_answer(struct request_sock *req, u32 nonce, u64 thmac);
void dc_join_verified(struct request_sock *req, u32 nonce);
void dc_join_drop(struct request_sock *req);
bool dc_join_request_of(const struct request_sock *req, struct dc_join_request *of);
bool dc_join_complete(struct request_sock *req);
bool dc_request_is_ours(const struct mptcp_subflow_request_sock *subflow_req);
bool dc_request_is_external_capable(const struct request_sock *req);
void dc_msk_hold(struct mptcp_sock *msk);
void dc_msk_put(struct mptcp_sock *msk);
bool dc_msk_is_alone(const struct mptcp_sock *msk);
void dc_msk_abort(struct mptcp_sock *msk);
bool dc_request_joins(const struct request_sock *req);
bool dc_request_joins_external(const struct request_sock *req);
bool dc_msk_is_low_overhead(const struct mptcp_sock *msk);
u64 dc_msk_peer_key(const struct mptcp_sock *msk);
bool dc_subflow_joins(struct sock *ssk);
bool dc_subflow_is_join(const struct sock *ssk);
bool dc_subflow_first_join_syn(const struct sock *ssk, const struct sk_buff *skb, u32 *isn);
void dc_subflow_set_nonce(struct sock *ssk, u32 nonce);
void dc_subflow_join_fields(const struct sock *ssk, struct dc_join *join);
void dc_received_join(struct mptcp_options_received *mp_opt, u16 suboption,
		      const struct dc_join *join);
bool dc_token_has_mode(u32 token, bool external);

/* appkey.c: external keys, and what else applications ask of their sockets */
extern bool dc_apps_used;
void dc_app_forget(const struct sock *sk);
bool dc_app_mode(const struct sock *sk, u8 *lowoverhead);
bool dc_msk_is_external(const struct mptcp_sock *msk);
bool dc_app_has_key(const struct mptcp_sock *msk);
bool dc_app_hmac(const struct mptcp_sock *msk, bool previous, const u8 *message, size_t length,
		 u8 *hmac);
bool dc_app_join_begin(const struct mptcp_sock *msk, u32 nonce);
void dc_app_join_end(const struct mptcp_sock *msk, u32 nonce, bool taken);
void dc_abort_keys(const struct mptcp_sock *msk, u64 *ours, u64 *theirs);	/* in Rust */
const struct mptcp_sock *dc_external_owner(u64 local_key, u64 remote_key);
bool dc_pm_must_wait(const struct mptcp_sock *msk);
unsigned int dc_external_add_addr_timeout(struct mptcp_sock *msk);
int dc_app_setsockopt(struct sock *sk, int optname, sockptr_t optval, unsigned int optlen);
int dc_apps_init(void);
void dc_apps_settle(void);
void dc_apps_exit(void);

/* stateless.c: SYN cookies whatever the backlog */
int dc_stateless_init(void);
bool dc_answer_stateless(struct sock *sk, struct sk_buff *skb);

/* info.c: getsockopt(MPTCP_DC_INFO) */
int dc_info_get(struct sock *sk, char __user *optval, int __user *optlen);

/* layout.c: is this the kernel that the module was built for? */
int dc_layout_check(void);

#endif /* MPTCP_DC_H */
