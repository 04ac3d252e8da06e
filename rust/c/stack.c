// SPDX-License-Identifier: GPL-2.0
/* Bit fields and inline functions of the stack's objects, for Rust. */
#include "protocol.h"
#include "mib.h"
#include "dc.h"

/* How many SYNs of ours a connection sends. */
#define DC_OFFERS	2

/* dc_listener_of() where applications have set options. Apart, as it needs a stack frame. */
static noinline struct dc_listener dc_listener_asked(const struct mptcp_subflow_context *subflow,
						     struct dc_listener of)
{
	u8 lowoverhead = READ_ONCE(of.netns->lowoverhead);

	of.external = dc_app_mode(subflow->conn, &lowoverhead);
	of.accept = lowoverhead;
	return of;
}

/* Does the stack look at an MP_CAPABLE, or (@join) MP_JOIN, to this listener? */
static __always_inline bool dc_listener_looks(const struct sock *listener, bool join)
{
	const struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(listener);

#ifdef CONFIG_TCP_MD5SIG
	if (rcu_access_pointer(tcp_sk(listener)->md5sig_info))
		return false;
#endif
	return subflow->request_mptcp && (join || !subflow->pm_listener);
}

/*
 * What a listener takes of MP_CAPABLE or (@join) MP_JOIN. Where that is nothing,
 * the stack then resets or falls back: subflow_check_req().
 */
struct dc_listener dc_listener_of(const struct sock *listener, bool join)
{
	struct dc_listener of = {};

	if (!dc_listener_looks(listener, join))
		return of;
	of.netns = dc_netns_of_bh(sock_net(listener));
	if (READ_ONCE(dc_apps_used))
		return dc_listener_asked(mptcp_subflow_ctx(listener), of);
	of.accept = READ_ONCE(of.netns->lowoverhead);
	return of;
}

/*
 * The namespace of a listener that takes low-overhead MP_CAPABLEs, where no
 * application has set options; NULL: it is another. Counts the SYN as well: what
 * every SYN goes through is one call.
 */
struct dc_netns *dc_listener_take_syn(const struct sock *listener, enum dc_counter counter)
{
	struct net *net = sock_net(listener);
	struct dc_netns *ns;

	if (!dc_listener_looks(listener, false) || READ_ONCE(dc_apps_used))
		return NULL;
	ns = dc_netns_of_bh(net);
	if (!READ_ONCE(ns->lowoverhead))
		return NULL;
	MPTCP_INC_STATS(net, MPTCP_MIB_MPCAPABLEPASSIVE);
	dc_count_one(ns, counter);
	return ns;
}

/* The mode in which the subflow @ssk connects: lowoverhead, or @external. */
u8 dc_connect_mode(const struct sock *ssk, bool *external)
{
	u8 lowoverhead = READ_ONCE(dc_netns_of(sock_net(ssk))->lowoverhead);

	*external = false;
	if (READ_ONCE(dc_apps_used)) {
		rcu_read_lock();
		*external = dc_app_mode(mptcp_subflow_ctx(ssk)->conn, &lowoverhead);
		rcu_read_unlock();
	}
	return lowoverhead;
}

/* subflow_init_req() */
void dc_request_init(struct request_sock *req, const struct sock *listener)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	subflow_req->mp_capable = 0;
	subflow_req->mp_join = 0;
	subflow_req->csum_reqd = dc_checksum_required(sock_net(listener));
	subflow_req->allow_join_id0 = dc_join_id0_allowed(sock_net(listener));
	subflow_req->msk = NULL;
	mptcp_token_init_request(req);
}

/* dc_request_accept() for the ACK of a SYN cookie. */
bool dc_request_accept_cookie(struct request_sock *req, const struct sk_buff *skb)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	if (!dc_token_add_request(req))
		return false;
	subflow_req->ssn_offset = TCP_SKB_CB(skb)->seq - 1;
	subflow_req->mp_capable = 1;
	return true;
}

/* What subflow_check_req() sees in a SYN. */
void dc_parse_standard_syn(const struct sk_buff *skb, struct dc_standard_syn *syn)
{
	struct mptcp_options_received mp_opt;

	memset(syn, 0, sizeof(*syn));
	dc_orig_get_options(skb, &mp_opt);
	if (mp_opt.suboptions & OPTION_MPTCP_MPC_SYN) {
		syn->suboption = OPTION_MPTCP_MPC_SYN;
	} else if (mp_opt.suboptions & OPTION_MPTCP_MPJ_SYN) {
		syn->suboption = OPTION_MPTCP_MPJ_SYN;
		syn->join.token = mp_opt.token;
		syn->join.address_id = mp_opt.join_id;
		syn->join.backup = mp_opt.backup;
		syn->join.nonce = mp_opt.nonce;
	}
}

/* dc_request_accept() for a key as RFC 8684 has it. */
bool dc_request_accept_standard(struct request_sock *req, const struct sk_buff *skb, u64 key)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	subflow_req->local_key = key;
	if (req->syncookie) {
		dc_orig_key_sha(key, &subflow_req->token, &subflow_req->idsn);
		if (dc_token_find(subflow_req->token))
			return false;
	} else if (dc_token_new_request(req)) {
		return false;
	}
	subflow_req->ssn_offset = TCP_SKB_CB(skb)->seq;
	subflow_req->mp_capable = 1;
	return true;
}

static u8 dc_capable_flags(bool csum_reqd, bool allow_join_id0)
{
	return MPTCP_CAP_HMAC_SHA256 | (csum_reqd ? MPTCP_CAP_CHECKSUM_REQD : 0) |
	       (allow_join_id0 ? 0 : MPTCP_CAP_DENY_JOIN_ID0);
}

/*
 * mptcp_synack_options() for a request with a key field of ours: its own, or in a
 * low-overhead join its connection's. Adds @mark to the suboptions. Whoever writes
 * an MP_CAPABLE finds its flags in the ID's place.
 */
bool dc_request_answer(const struct request_sock *req, unsigned int *size,
		       struct mptcp_out_options *opts, u16 mark, unsigned int join_size)
{
	const struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	if (subflow_req->mp_capable) {
		opts->suboptions = OPTION_MPTCP_MPC_SYNACK | mark;
		opts->sndr_key = subflow_req->local_key;
		opts->join_id = dc_capable_flags(subflow_req->csum_reqd,
						 subflow_req->allow_join_id0);
		*size = TCPOLEN_MPTCP_MPC_SYNACK;
		return true;
	}
	/*
	 * Another join doesn't set the key field, but a request of ours may have had
	 * the same memory before.
	 */
	if (!subflow_req->mp_join || subflow_req->thmac || subflow_req->local_nonce)
		return dc_orig_synack_options(req, size, opts);
	opts->suboptions = OPTION_MPTCP_MPJ_SYNACK | mark;
	opts->backup = subflow_req->request_bkup;
	opts->join_id = subflow_req->local_id;
	*size = join_size;
	return true;
}

/* Is a SYN with MP_CAPABLE or MP_JOIN of this subflow out, and unanswered? */
bool dc_subflow_awaits_synack(const struct sock *ssk)
{
	const struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	return (subflow->request_mptcp || subflow->request_join) && !subflow->conn_finished;
}

/* Is this TCP socket a subflow whose SYN is out? */
bool dc_is_connecting_subflow(const struct sock *ssk)
{
	return sk_is_mptcp(ssk) && ssk->sk_state == TCP_SYN_SENT;
}

/* Does the SYN carry a TCP Fast Open option, which takes a full SYN's room? */
bool dc_fastopen_requested(const struct sock *ssk)
{
	return tcp_sk(ssk)->fastopen_req;
}

void dc_sock_ends(const struct sock *sk, struct dc_ends *ends)
{
	struct in6_addr *local = (struct in6_addr *)ends->local_addr;
	struct in6_addr *remote = (struct in6_addr *)ends->remote_addr;

#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		*local = sk->sk_v6_rcv_saddr;
		*remote = sk->sk_v6_daddr;
	} else
#endif
	{
		ipv6_addr_set_v4mapped(sk->sk_rcv_saddr, local);
		ipv6_addr_set_v4mapped(sk->sk_daddr, remote);
	}
	memcpy(ends->local_port, &inet_sk(sk)->inet_sport, sizeof(ends->local_port));
	memcpy(ends->remote_port, &inet_sk(sk)->inet_dport, sizeof(ends->remote_port));
}

/* The flags that the stack gives an MP_CAPABLE of its own: mptcp_write_options() */
u8 dc_out_flags(const struct mptcp_out_options *opts)
{
	return dc_capable_flags(opts->csum_reqd, opts->allow_join_id0);
}

/*
 * What mptcp_parse_option() stores of an MP_CAPABLE besides keys and mapping.
 * Of other options, only REMOVE_ADDR can stand in one segment with it.
 */
void dc_received_capable(struct mptcp_options_received *mp_opt, u16 suboption,
			 bool checksum, bool deny_join)
{
	u16 kept = mp_opt->suboptions & OPTION_MPTCP_RM_ADDR;

	memset(&mp_opt->status, 0, sizeof(mp_opt->status));
	mp_opt->suboptions = kept | suboption;
	if (checksum)
		mp_opt->suboptions |= OPTION_MPTCP_CSUMREQD;
	mp_opt->deny_join_id0 = deny_join;
}

/*
 * The data of an MP_CAPABLE is an ordinary mapping here: the sequence number is
 * known, the stack needn't derive it from the key (mpc_map).
 */
void dc_received_mapping(struct mptcp_options_received *mp_opt)
{
	mp_opt->suboptions |= OPTION_MPTCP_DSS;
	mp_opt->use_map = 1;
	mp_opt->dsn64 = 1;
}

/*
 * Gives the connection of @ssk, whose SYN is out, a key and token as
 * RFC 8684 has them. False: no token is free, the connection becomes plain TCP.
 */
bool dc_subflow_restart(struct sock *ssk)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	dc_token_release(ssk);
	if (!dc_standard_connect(ssk))
		return true;
	subflow->request_mptcp = 0;
	dc_orig_try_fallback(mptcp_sk(subflow->conn), MPTCP_MIB_TOKENFALLBACKINIT);
	return false;
}

/* The connection of @ssk, whose SYN is out, becomes plain TCP. */
void dc_subflow_refuse(struct sock *ssk)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	dc_token_release(ssk);
	subflow->request_mptcp = 0;
	dc_orig_try_fallback(mptcp_sk(subflow->conn), MPTCP_MIB_MPCAPABLEACTIVEFALLBACK);
}

/*
 * A SYN of ours has been sent @ssk's connection twice, and is to be sent again.
 * Perhaps somebody on the way drops them, so the third is one of version 1, or with
 * external keys of plain TCP. It is the last before the stack would find that MPTCP
 * is blocked (mptcp_active_detect_blackhole()), and make plain TCP of all that the
 * namespace connects for an hour: version 1 mustn't pay for ours. True: it is so.
 */
bool dc_subflow_give_up(struct sock *ssk)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	if (inet_csk(ssk)->icsk_retransmits < DC_OFFERS || !subflow->request_mptcp)
		return false;
	if (subflow->local_key & 1)
		dc_subflow_refuse(ssk);
	else
		dc_subflow_restart(ssk);
	return true;
}

/*
 * mptcp_active_detect_blackhole() for a SYN of ours. Where the stack is less patient
 * than dc_subflow_give_up(), the SYN that it gives up had version 15, so whoever
 * dropped it says nothing of standard MPTCP. True: it was given up.
 */
bool dc_detect_blackhole(struct sock *ssk, bool expired)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);
	bool offered = subflow->request_mptcp;

	dc_orig_detect_blackhole(ssk, expired);
	if (!offered || subflow->request_mptcp)
		return false;
	subflow->mpc_drop = 0;
	return true;
}

/* proto::key::is_low_overhead(), for C */
bool dc_subflow_is_low_overhead(const struct mptcp_subflow_context *subflow)
{
	return subflow->token && subflow->token == subflow->local_key >> 32 &&
	       subflow->idsn == ror64(subflow->local_key, 32);
}
