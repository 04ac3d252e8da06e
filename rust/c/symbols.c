// SPDX-License-Identifier: GPL-2.0
/*
 * Finding functions of the kernel by name, and calling them.
 *
 * With IBT the kernel overwrites the ENDBR of every function whose address it
 * never takes, so a call through a pointer could kill the machine. A static
 * call is a direct call, patched into the code once the address is known.
 *
 * The original of a hooked function is entered behind its call to __fentry__:
 * ftrace, and so our own hook, doesn't see that call. Nothing has to be let
 * through, and whoever traces the function sees each call to it once.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/btf.h>
#include <linux/kprobes.h>
#include <linux/static_call.h>
#include "protocol.h"
#include "dc.h"
#include "stateless.h"

DEFINE_STATIC_CALL_NULL(dc_lookup_name, dc_proto_lookup_name);
DEFINE_STATIC_CALL_NULL(dc_lookup_size, dc_proto_lookup_size);
DEFINE_STATIC_CALL_NULL(dc_location, dc_proto_ftrace_location);
DEFINE_STATIC_CALL_NULL(dc_btf_name_by_offset, dc_proto_btf_name);
DEFINE_STATIC_CALL_NULL(dc_btf_put, btf_put);
DEFINE_STATIC_CALL_NULL(dc_try_fallback, __mptcp_try_fallback);
DEFINE_STATIC_CALL_NULL(dc_work, mptcp_schedule_work);
DEFINE_STATIC_CALL_NULL(dc_nmpc_sk, __mptcp_nmpc_sk);
DEFINE_STATIC_CALL_NULL(dc_checksum_enabled, mptcp_is_checksum_enabled);
DEFINE_STATIC_CALL_NULL(dc_allow_join_id0, mptcp_allow_join_id0);
DEFINE_STATIC_CALL_NULL(dc_get_local_id, mptcp_pm_get_local_id);
DEFINE_STATIC_CALL_NULL(dc_is_backup, mptcp_pm_is_backup);
DEFINE_STATIC_CALL_NULL(dc_announced_has_ssk, mptcp_pm_announced_has_ssk);
DEFINE_STATIC_CALL_NULL(dc_userspace_active, mptcp_userspace_pm_active);
#define X(call, type, function) DEFINE_STATIC_CALL_NULL(call, type);
DC_SYN_CALLS(X)
#undef X
DEFINE_STATIC_CALL_NULL(dc_new_request, mptcp_token_new_request);
DEFINE_STATIC_CALL_NULL(dc_join_save, subflow_init_req_cookie_join_save);

DEFINE_STATIC_CALL_NULL(dc_syn_options, mptcp_syn_options);
DEFINE_STATIC_CALL_NULL(dc_synack_options, mptcp_synack_options);
DEFINE_STATIC_CALL_NULL(dc_write_options, mptcp_write_options);
DEFINE_STATIC_CALL_NULL(dc_get_options, mptcp_get_options);
DEFINE_STATIC_CALL_NULL(dc_check_req, dc_proto_request);
DEFINE_STATIC_CALL_NULL(dc_init_cookie_req, dc_proto_request);
DEFINE_STATIC_CALL_NULL(dc_finish_connect, dc_proto_finish_connect);
DEFINE_STATIC_CALL_NULL(dc_syn_recv_sock, dc_orig_syn_recv_sock);
DEFINE_STATIC_CALL_NULL(dc_token_new_connect, mptcp_token_new_connect);
DEFINE_STATIC_CALL_NULL(dc_v4_conn_request, dc_proto_conn_request);
DEFINE_STATIC_CALL_NULL(dc_v6_conn_request, dc_proto_conn_request);
DEFINE_STATIC_CALL_NULL(dc_key_sha, mptcp_crypto_key_sha);
DEFINE_STATIC_CALL_NULL(dc_pm_fully_established, mptcp_pm_fully_established);
DEFINE_STATIC_CALL_NULL(dc_add_addr_timeout, dc_orig_add_addr_timeout);
DEFINE_STATIC_CALL_NULL(dc_blackhole, mptcp_active_detect_blackhole);
DEFINE_STATIC_CALL_NULL(dc_incoming_options, mptcp_incoming_options);
DEFINE_STATIC_CALL_NULL(dc_established_options, mptcp_established_options);
DEFINE_STATIC_CALL_NULL(dc_hmac_sha, mptcp_crypto_hmac_sha);

/* A function of the kernel, and the static call that reaches it. */
struct dc_function {
	const char		*name;
	struct static_call_key	*key;
	void			*tramp;
};

#define DC_FUNCTION(function, call) {				\
	.name = function,					\
	.key = &STATIC_CALL_KEY(call),				\
	.tramp = STATIC_CALL_TRAMP_ADDR(call),			\
}

static const struct dc_function dc_lookup = DC_FUNCTION("kallsyms_lookup_name", dc_lookup_name);

/* Functions that aren't exported. */
static const struct dc_function dc_helpers[] = {
	DC_FUNCTION("kallsyms_lookup_size_offset", dc_lookup_size),
	DC_FUNCTION("ftrace_location", dc_location),
	DC_FUNCTION("btf_name_by_offset", dc_btf_name_by_offset),
	DC_FUNCTION("btf_put", dc_btf_put),
	DC_FUNCTION("__mptcp_try_fallback", dc_try_fallback),
	DC_FUNCTION("mptcp_schedule_work", dc_work),
	DC_FUNCTION("__mptcp_nmpc_sk", dc_nmpc_sk),
	DC_FUNCTION("mptcp_is_checksum_enabled", dc_checksum_enabled),
	DC_FUNCTION("mptcp_allow_join_id0", dc_allow_join_id0),
	DC_FUNCTION("mptcp_pm_get_local_id", dc_get_local_id),
	DC_FUNCTION("mptcp_pm_is_backup", dc_is_backup),
	DC_FUNCTION("mptcp_pm_announced_has_ssk", dc_announced_has_ssk),
	DC_FUNCTION("mptcp_userspace_pm_active", dc_userspace_active),
#define X(call, type, function) DC_FUNCTION(#function, call),
	DC_SYN_CALLS(X)
#undef X
	DC_FUNCTION("mptcp_token_new_request", dc_new_request),
	DC_FUNCTION("subflow_init_req_cookie_join_save", dc_join_save),
};

/* Functions that are hooked. */
static const struct dc_function dc_originals[] = {
	DC_FUNCTION("mptcp_syn_options", dc_syn_options),
	DC_FUNCTION("mptcp_synack_options", dc_synack_options),
	DC_FUNCTION("mptcp_write_options", dc_write_options),
	DC_FUNCTION("mptcp_get_options", dc_get_options),
	DC_FUNCTION("subflow_check_req", dc_check_req),
	DC_FUNCTION("mptcp_subflow_init_cookie_req", dc_init_cookie_req),
	DC_FUNCTION("subflow_finish_connect", dc_finish_connect),
	DC_FUNCTION("subflow_syn_recv_sock", dc_syn_recv_sock),
	DC_FUNCTION("mptcp_token_new_connect", dc_token_new_connect),
	DC_FUNCTION("subflow_v4_conn_request", dc_v4_conn_request),
	DC_FUNCTION("subflow_v6_conn_request", dc_v6_conn_request),
	DC_FUNCTION("mptcp_crypto_key_sha", dc_key_sha),
	DC_FUNCTION("mptcp_pm_fully_established", dc_pm_fully_established),
	DC_FUNCTION("mptcp_adjust_add_addr_timeout", dc_add_addr_timeout),
	DC_FUNCTION("mptcp_active_detect_blackhole", dc_blackhole),
	DC_FUNCTION("mptcp_incoming_options", dc_incoming_options),
	DC_FUNCTION("mptcp_established_options", dc_established_options),
	DC_FUNCTION("mptcp_crypto_hmac_sha", dc_hmac_sha),
};

static void dc_static_call_set(const struct dc_function *function, unsigned long entry)
{
	__static_call_update(function->key, function->tramp, (void *)entry);
}

/*
 * kallsyms_lookup_name() isn't exported, but a kprobe takes a name. The probe's
 * address lies behind the ENDBR, which a direct call doesn't need.
 */
int dc_symbols_init(void)
{
	struct kprobe probe = { .symbol_name = dc_lookup.name };
	unsigned long address;
	int i, err;

	err = register_kprobe(&probe);
	if (err) {
		pr_err("no kprobe on %s, so no symbol can be looked up: %d\n",
		       probe.symbol_name, err);
		return err;
	}
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	dc_static_call_set(&dc_lookup, address);

	for (i = 0; i < ARRAY_SIZE(dc_helpers); i++) {
		address = dc_symbol(dc_helpers[i].name);
		if (!address)
			return -ENOENT;
		dc_static_call_set(&dc_helpers[i], address);
	}
	return 0;
}

/* The address of a symbol; 0 if this kernel has none. */
unsigned long dc_symbol_if_any(const char *name)
{
	return static_call(dc_lookup_name)(name);
}

/* The same, with a message for want of it. */
unsigned long dc_symbol(const char *name)
{
	unsigned long address = dc_symbol_if_any(name);

	if (!address)
		pr_err("this kernel has no symbol %s\n", name);
	return address;
}

/* Where the function at @address calls __fentry__; 0 if it can't be traced. */
unsigned long dc_ftrace_location(unsigned long address)
{
	return static_call(dc_location)(address);
}

/* The size of the function that starts at @address. */
bool dc_symbol_range(unsigned long address, unsigned long *size)
{
	unsigned long offset;

	return static_call(dc_lookup_size)(address, size, &offset) && !offset;
}

/* Lets the original of @name, if any is called, be entered at @entry. */
void dc_original_set(const char *name, unsigned long entry)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(dc_originals); i++) {
		if (!strcmp(dc_originals[i].name, name))
			dc_static_call_set(&dc_originals[i], entry);
	}
}

bool dc_orig_syn_options(struct sock *ssk, const struct sk_buff *skb,
			 unsigned int *size, struct mptcp_out_options *opts)
{
	return static_call(dc_syn_options)(ssk, skb, size, opts);
}

bool dc_orig_synack_options(const struct request_sock *req, unsigned int *size,
			    struct mptcp_out_options *opts)
{
	return static_call(dc_synack_options)(req, size, opts);
}

void dc_orig_write_options(struct tcphdr *th, __be32 *ptr, struct tcp_sock *tp,
			   struct mptcp_out_options *opts)
{
	static_call(dc_write_options)(th, ptr, tp, opts);
}

void dc_orig_get_options(const struct sk_buff *skb,
			 struct mptcp_options_received *mp_opt)
{
	static_call(dc_get_options)(skb, mp_opt);
}

int dc_orig_check_req(struct request_sock *req, const struct sock *listener,
		      struct sk_buff *skb)
{
	return static_call(dc_check_req)(req, listener, skb);
}

int dc_orig_init_cookie_req(struct request_sock *req,
			    const struct sock *listener, struct sk_buff *skb)
{
	return static_call(dc_init_cookie_req)(req, listener, skb);
}

void dc_orig_finish_connect(struct sock *ssk, const struct sk_buff *skb)
{
	static_call(dc_finish_connect)(ssk, skb);
}

struct sock *dc_orig_syn_recv_sock(const struct sock *listener, struct sk_buff *skb,
				   struct request_sock *req, struct dst_entry *dst,
				   struct request_sock *req_unhash, bool *own_req,
				   void (*opt_child_init)(struct sock *newsk,
							  const struct sock *sk))
{
	return static_call(dc_syn_recv_sock)(listener, skb, req, dst, req_unhash, own_req,
					     opt_child_init);
}

int dc_orig_token_new_connect(struct sock *ssk)
{
	return static_call(dc_token_new_connect)(ssk);
}

int dc_orig_v4_conn_request(struct sock *sk, struct sk_buff *skb)
{
	return static_call(dc_v4_conn_request)(sk, skb);
}

int dc_orig_v6_conn_request(struct sock *sk, struct sk_buff *skb)
{
	return static_call(dc_v6_conn_request)(sk, skb);
}

void dc_orig_key_sha(u64 key, u32 *token, u64 *idsn)
{
	static_call(dc_key_sha)(key, token, idsn);
}

void dc_orig_pm_fully_established(struct mptcp_sock *msk, const struct sock *ssk)
{
	static_call(dc_pm_fully_established)(msk, ssk);
}

unsigned int dc_orig_add_addr_timeout(struct mptcp_sock *msk)
{
	return static_call(dc_add_addr_timeout)(msk);
}

void dc_orig_detect_blackhole(struct sock *ssk, bool expired)
{
	static_call(dc_blackhole)(ssk, expired);
}

bool dc_orig_incoming_options(struct sock *ssk, struct sk_buff *skb)
{
	return static_call(dc_incoming_options)(ssk, skb);
}

bool dc_schedule_work(struct sock *sk)
{
	return static_call(dc_work)(sk);
}

/* The first subflow of a socket that is neither connected nor on the way, which is made if need be. */
struct sock *dc_first_subflow(struct mptcp_sock *msk)
{
	return static_call(dc_nmpc_sk)(msk);
}

int dc_orig_established_options(struct sock *ssk, struct sk_buff *skb, unsigned int remaining,
				bool has_ts, struct mptcp_out_options *opts)
{
	return static_call(dc_established_options)(ssk, skb, remaining, has_ts, opts);
}

void dc_orig_hmac_sha(u64 key1, u64 key2, u8 *msg, int len, void *hmac)
{
	static_call(dc_hmac_sha)(key1, key2, msg, len, hmac);
}

bool dc_orig_try_fallback(struct mptcp_sock *msk, int fb_mib)
{
	return static_call(dc_try_fallback)(msk, fb_mib);
}

const char *dc_btf_name(const struct btf *btf, u32 offset)
{
	return static_call(dc_btf_name_by_offset)(btf, offset);
}

void dc_btf_release(struct btf *btf)
{
	static_call(dc_btf_put)(btf);
}

bool dc_checksum_required(const struct net *net)
{
	return static_call(dc_checksum_enabled)(net);
}

bool dc_join_id0_allowed(const struct net *net)
{
	return static_call(dc_allow_join_id0)(net);
}

int dc_pm_local_id(struct mptcp_sock *msk, struct sock_common *skc)
{
	return static_call(dc_get_local_id)(msk, skc);
}

bool dc_pm_is_backup(struct mptcp_sock *msk, struct sock_common *skc)
{
	return static_call(dc_is_backup)(msk, skc);
}

bool dc_pm_announced(struct mptcp_sock *msk, const struct sock *ssk)
{
	return static_call(dc_announced_has_ssk)(msk, ssk);
}

bool dc_userspace_pm_active(const struct mptcp_sock *msk)
{
	return static_call(dc_userspace_active)(msk);
}

int dc_token_new_request(struct request_sock *req)
{
	return static_call(dc_new_request)(req);
}

void dc_cookie_join_save(const struct mptcp_subflow_request_sock *subflow_req, struct sk_buff *skb)
{
	static_call(dc_join_save)(subflow_req, skb);
}
