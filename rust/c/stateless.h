/* SPDX-License-Identifier: GPL-2.0 */
/* The functions of the stack that stateless.c answers a SYN with. */
#ifndef MPTCP_DC_STATELESS_H
#define MPTCP_DC_STATELESS_H

#include <linux/static_call.h>
#include <net/inet_sock.h>
#include <net/rstreason.h>
#include <net/tcp.h>

/* Never defined: the types of functions that no header of the kernel declares. */
struct dst_entry *dc_proto_route_req(const struct sock *sk, struct sk_buff *skb,
				     struct flowi *fl, struct request_sock *req, u32 tw_isn);
int dc_proto_send_synack(const struct sock *sk, struct dst_entry *dst, struct flowi *fl,
			 struct request_sock *req, struct tcp_fastopen_cookie *foc,
			 enum tcp_synack_type synack_type, struct sk_buff *syn_skb);
void dc_proto_send_reset(const struct sock *sk, struct sk_buff *skb, enum sk_rst_reason reason);

/* As X(static call, function with its type, function). symbols.c resolves them. */
#define DC_SYN_CALLS(X)								\
	X(dc_reqsk_alloc, inet_reqsk_alloc, inet_reqsk_alloc)			\
	X(dc_reqsk_free, __reqsk_free, __reqsk_free)				\
	X(dc_init_rwin, tcp_openreq_init_rwin, tcp_openreq_init_rwin)		\
	X(dc_v4_cookie, cookie_v4_init_sequence, cookie_v4_init_sequence)	\
	X(dc_v6_cookie, cookie_v6_init_sequence, cookie_v6_init_sequence)	\
	X(dc_v4_ts_off, tcp_v4_init_seq_and_ts_off, tcp_v4_init_seq_and_ts_off)	\
	X(dc_v6_ts_off, tcp_v6_init_seq_and_ts_off, tcp_v6_init_seq_and_ts_off)	\
	X(dc_v4_route_req, dc_proto_route_req, subflow_v4_route_req)		\
	X(dc_v6_route_req, dc_proto_route_req, subflow_v6_route_req)		\
	X(dc_v4_send_synack, dc_proto_send_synack, subflow_v4_send_synack)	\
	X(dc_v6_send_synack, dc_proto_send_synack, subflow_v6_send_synack)	\
	X(dc_v4_send_reset, dc_proto_send_reset, tcp_v4_send_reset)		\
	X(dc_v6_send_reset, dc_proto_send_reset, tcp_v6_send_reset)

#define X(call, type, function) DECLARE_STATIC_CALL(call, type);
DC_SYN_CALLS(X)
#undef X

#endif /* MPTCP_DC_STATELESS_H */
