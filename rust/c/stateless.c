// SPDX-License-Identifier: GPL-2.0
/*
 * A SYN is answered with a SYN cookie, whatever the backlog: what
 * tcp_conn_request() does where it wants a cookie, and nothing else of it. The
 * request lives no longer than the answer takes.
 *
 * All of it runs in softirq, with the RCU read lock held, on a listener that
 * nobody has locked.
 */
#include <net/ip6_route.h>
#include <net/tcp_ecn.h>
#include "protocol.h"
#include "dc.h"
#include "stateless.h"

/* What subflow_v4_conn_request() and its twin give to tcp_conn_request(). */
struct dc_family {
	const struct request_sock_ops		*rsk_ops;
	const struct tcp_request_sock_ops	*af_ops;
};

static struct dc_family dc_v4 __ro_after_init;
static struct dc_family dc_v6 __ro_after_init;

int dc_stateless_init(void)
{
	dc_v4.rsk_ops = (void *)dc_symbol("mptcp_subflow_v4_request_sock_ops");
	dc_v4.af_ops = (void *)dc_symbol("subflow_request_sock_ipv4_ops");
	dc_v6.rsk_ops = (void *)dc_symbol("mptcp_subflow_v6_request_sock_ops");
	dc_v6.af_ops = (void *)dc_symbol("subflow_request_sock_ipv6_ops");
	return dc_v4.rsk_ops && dc_v4.af_ops && dc_v6.rsk_ops && dc_v6.af_ops ? 0 : -ENOENT;
}

/*
 * Can a cookie answer this SYN? Not where the ACK would find that cookies are
 * off; where the sequence number must follow that of a connection in TIME-WAIT;
 * where TCP-AO is to sign the answer; and where the SYN is to be dropped:
 * subflow_v4_conn_request(), subflow_v6_conn_request().
 */
static bool dc_cookie_fits(const struct sock *sk, const struct sk_buff *skb, bool v6)
{
	if (!READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_syncookies) || TCP_SKB_CB(skb)->tcp_tw_isn)
		return false;
#ifdef CONFIG_TCP_AO
	if (rcu_access_pointer(tcp_sk(sk)->ao_info))
		return false;
#endif
	if (!v6)
		return !(skb_rtable(skb)->rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST));
	return ipv6_unicast_destination(skb) && !ipv6_addr_v4mapped(&ipv6_hdr(skb)->saddr);
}

/* The options of a SYN, as far as a cookie can keep them: without timestamps, only the MSS. */
static void dc_parse_options(const struct sock *sk, const struct sk_buff *skb, u16 mss_clamp,
			     struct tcp_options_received *options)
{
	tcp_clear_options(options);
	options->mss_clamp = mss_clamp;
	options->user_mss = READ_ONCE(tcp_sk(sk)->rx_opt.user_mss);
	tcp_parse_options(sock_net(sk), skb, options, 0, NULL);
	if (!options->saw_tstamp)
		tcp_clear_options(options);
	options->tstamp_ok = options->saw_tstamp;
}

/* What tcp_conn_request() and tcp_openreq_init() put into a request. */
static void dc_fill_request(struct request_sock *req, struct sock *sk, struct sk_buff *skb,
			    const struct tcp_options_received *options)
{
	struct inet_request_sock *ireq = inet_rsk(req);
	struct tcp_request_sock *treq = tcp_rsk(req);

	req->syncookie = 1;
	req->rsk_rcv_wnd = 0;
	req->mss = options->mss_clamp;
	req->ts_recent = options->saw_tstamp ? options->rcv_tsval : 0;

	ireq->tstamp_ok = options->tstamp_ok;
	ireq->sack_ok = options->sack_ok;
	ireq->snd_wscale = options->snd_wscale;
	ireq->wscale_ok = options->wscale_ok;
	ireq->acked = 0;
	ireq->ecn_ok = 0;
	ireq->smc_ok = 0;
	ireq->no_srccheck = inet_test_bit(TRANSPARENT, sk);
	ireq->ir_rmt_port = tcp_hdr(skb)->source;
	ireq->ir_num = ntohs(tcp_hdr(skb)->dest);
	ireq->ir_mark = inet_request_mark(sk, skb);
	ireq->ir_iif = inet_request_bound_dev_if(sk, skb);

	treq->rcv_isn = TCP_SKB_CB(skb)->seq;
	treq->rcv_nxt = TCP_SKB_CB(skb)->seq + 1;
	treq->snt_synack = 0;
	treq->snt_tsval_first = 0;
	treq->last_oow_ack_time = 0;
	treq->ts_off = 0;
	treq->req_usec_ts = false;
	treq->syn_tos = TCP_SKB_CB(skb)->ip_dsfield;
	treq->tfo_listener = false;
	treq->is_mptcp = 0;
	treq->accecn_ok = 0;
	treq->saw_accecn_opt = TCP_ACCECN_OPT_NOT_SEEN;
	treq->accecn_fail_mode = 0;
	treq->syn_ect_rcv = 0;
	treq->syn_ect_snt = 0;
#ifdef CONFIG_TCP_AO
	treq->used_tcp_ao = false;
#endif
}

/*
 * tcp_ecn_create_request(). BPF isn't asked, as it never is of a request that
 * holds no listener.
 */
static void dc_fill_ecn(struct request_sock *req, const struct sock *sk, const struct sk_buff *skb,
			const struct dst_entry *dst)
{
	int tcp_ecn = READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_ecn);
	u8 dsfield = TCP_SKB_CB(skb)->ip_dsfield;
	const struct tcphdr *th = tcp_hdr(skb);
	u32 ecn_ok_dst;

	if (tcp_accecn_syn_requested(th) && (tcp_ecn >= 3 || tcp_ca_needs_accecn(sk))) {
		inet_rsk(req)->ecn_ok = 1;
		tcp_rsk(req)->accecn_ok = 1;
		tcp_rsk(req)->syn_ect_rcv = dsfield & INET_ECN_MASK;
		return;
	}
	if (!th->ece || !th->cwr)
		return;

	ecn_ok_dst = dst_feature(dst, DST_FEATURE_ECN_MASK);
	if (((INET_ECN_is_not_ect(dsfield) || th->res1 || th->ae) && (tcp_ecn || ecn_ok_dst)) ||
	    tcp_ca_needs_ecn(sk) || (ecn_ok_dst & DST_FEATURE_ECN_CA))
		inet_rsk(req)->ecn_ok = 1;
}

/* subflow_check_req() said no, and left the reason in @skb; of a cookie's SYN the stack doesn't tell. */
static void dc_send_reset(const struct sock *sk, struct sk_buff *skb, bool v6)
{
	const struct mptcp_ext *refusal = mptcp_get_ext(skb);
	enum sk_rst_reason reason;

	if (!refusal)
		return;
	reason = sk_rst_convert_mptcp_reason(refusal->reset_reason);
	if (v6)
		static_call(dc_v6_send_reset)(sk, skb, reason);
	else
		static_call(dc_v4_send_reset)(sk, skb, reason);
}

/* Answers the SYN @skb to the listener @sk. False: it is left to the stack. */
bool dc_answer_stateless(struct sock *sk, struct sk_buff *skb)
{
	bool v6 = skb->protocol == htons(ETH_P_IPV6);
	const struct dc_family *family = v6 ? &dc_v6 : &dc_v4;
	struct tcp_fastopen_cookie foc = { .len = -1 };
	struct tcp_options_received options;
	struct net *net = sock_net(sk);
	union tcp_seq_and_ts_off st;
	struct request_sock *req;
	struct dst_entry *dst;
	struct flowi fl;
	u32 isn;

	if (!dc_cookie_fits(sk, skb, v6))
		return false;
	if (sk_acceptq_is_full(sk)) {
		NET_INC_STATS(net, LINUX_MIB_LISTENOVERFLOWS);
		goto drop;
	}
	req = static_call(dc_reqsk_alloc)(family->rsk_ops, sk, false);
	if (!req)
		goto drop;
	tcp_rsk(req)->af_specific = family->af_ops;
	dc_parse_options(sk, skb, family->af_ops->mss_clamp, &options);
	dc_fill_request(req, sk, skb, &options);

	isn = v6 ? static_call(dc_v6_cookie)(skb, &req->mss) :
		   static_call(dc_v4_cookie)(skb, &req->mss);
	tcp_rsk(req)->snt_isn = isn;
	tcp_rsk(req)->txhash = isn;

	/* This comes through subflow_check_req(), and so to the module again. */
	dst = v6 ? static_call(dc_v6_route_req)(sk, skb, &fl, req, 0) :
		   static_call(dc_v4_route_req)(sk, skb, &fl, req, 0);
	if (!dst) {
		dc_send_reset(sk, skb, v6);
		goto free;
	}
	if (options.tstamp_ok) {
		st = v6 ? static_call(dc_v6_ts_off)(net, skb) : static_call(dc_v4_ts_off)(net, skb);
		tcp_rsk(req)->ts_off = st.ts_off;
		tcp_rsk(req)->req_usec_ts = dst_tcp_usec_ts(dst);
		dc_fill_ecn(req, sk, skb, dst);
	}
	/* Else the ACK wouldn't be looked at. */
	cookie_record_sent(sk);

	static_call(dc_init_rwin)(req, sk, dst);
	sk_rx_queue_set(req_to_sk(req), skb);
	if (v6)
		static_call(dc_v6_send_synack)(sk, dst, &fl, req, &foc, TCP_SYNACK_COOKIE, skb);
	else
		static_call(dc_v4_send_synack)(sk, dst, &fl, req, &foc, TCP_SYNACK_COOKIE, skb);
	static_call(dc_reqsk_free)(req);
	dc_count(dc_netns_of(net), DC_COUNT_JOIN_SYN_STATELESS);
	return true;

free:
	static_call(dc_reqsk_free)(req);
drop:
	tcp_listendrop(sk);
	return true;
}
