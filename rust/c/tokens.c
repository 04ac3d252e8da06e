// SPDX-License-Identifier: GPL-2.0
/*
 * The stack's token table (net/mptcp/token.c), with tokens that are chosen and
 * not hashed from a random key; and every CPU's cursor into the counters that
 * tokens are made of.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/percpu.h>
#include <linux/timekeeping.h>
#include "protocol.h"
#include "dc.h"

#define DC_TOKEN_MAX_CHAIN_LEN	4	/* TOKEN_MAX_CHAIN_LEN of token.c */

static struct dc_token_bucket *dc_table __read_mostly;
static unsigned int dc_mask __read_mostly;

DEFINE_PER_CPU_ALIGNED(struct dc_cursor, dc_cursors);

int dc_tokens_init(void)
{
	unsigned long table = dc_symbol("token_hash");
	unsigned long mask = dc_symbol("token_mask");
	int cpu;

	if (!table || !mask)
		return -ENOENT;
	dc_table = *(struct dc_token_bucket **)table;
	dc_mask = *(unsigned int *)mask;
	for_each_possible_cpu(cpu)
		per_cpu(dc_cursors, cpu).slice = cpu;
	return 0;
}

static struct dc_token_bucket *dc_bucket(u32 token)
{
	return &dc_table[token & dc_mask];
}

/* The last number that dc_token_bucket_at() takes. */
unsigned int dc_token_mask(void)
{
	return dc_mask;
}

struct dc_token_bucket *dc_token_bucket_at(unsigned int number)
{
	return &dc_table[number];
}

/* Called with the bucket's lock held. */
static struct mptcp_subflow_request_sock *dc_find_request(struct dc_token_bucket *bucket,
							  u32 token)
{
	struct mptcp_subflow_request_sock *req;
	struct hlist_nulls_node *pos;

	hlist_nulls_for_each_entry_rcu(req, pos, &bucket->req_chain, token_node)
		if (req->token == token)
			return req;
	return NULL;
}

/* Called with the bucket's lock held. */
static struct sock *dc_find_msk(struct dc_token_bucket *bucket, u32 token)
{
	struct hlist_nulls_node *pos;
	struct sock *sk;

	sk_nulls_for_each_rcu(sk, pos, &bucket->msk_chain)
		if (mptcp_sk(sk)->token == token)
			return sk;
	return NULL;
}

static bool dc_bucket_busy(struct dc_token_bucket *bucket, u32 token)
{
	return bucket->chain_len >= DC_TOKEN_MAX_CHAIN_LEN ||
	       dc_find_request(bucket, token) || dc_find_msk(bucket, token);
}

static __always_inline struct mptcp_sock *dc_bucket_find(struct dc_token_bucket *bucket, u32 token)
{
	struct hlist_nulls_node *pos;
	struct sock *sk;

again:
	sk_nulls_for_each_rcu(sk, pos, &bucket->msk_chain) {
		if (READ_ONCE(mptcp_sk(sk)->token) == token)
			return mptcp_sk(sk);
	}
	if (get_nulls_value(pos) != (token & dc_mask))
		goto again;
	return NULL;
}

/* The connection that holds @token, under the RCU read lock; NULL if there is none. */
struct mptcp_sock *dc_token_find(u32 token)
{
	return dc_bucket_find(dc_bucket(token), token);
}

/* The memory of @sk became another connection's while it was looked at. */
static noinline struct mptcp_sock *dc_token_get_again(struct sock *sk, struct net *net, u32 token)
{
	sock_put(sk);
	return mptcp_token_get_sock(net, token);
}

/*
 * mptcp_token_get_sock() with softirqs disabled, which makes the caller an RCU
 * reader. No two namespaces hold the same token.
 */
struct mptcp_sock *dc_token_get(struct net *net, u32 token)
{
	struct mptcp_sock *msk = dc_bucket_find(dc_bucket(token), token);
	struct sock *sk = (struct sock *)msk;

	if (!sk || !net_eq(sock_net(sk), net) || !refcount_inc_not_zero(&sk->sk_refcnt))
		return NULL;
	if (unlikely(READ_ONCE(msk->token) != token || !net_eq(sock_net(sk), net)))
		return dc_token_get_again(sk, net, token);
	return msk;
}

/*
 * Would the table refuse @token now? For a SYN cookie, whose token is added when
 * its ACK comes; that looks at requests, too. Called with softirqs disabled,
 * which makes the caller an RCU reader.
 */
static bool dc_token_busy(u32 token)
{
	struct dc_token_bucket *bucket = dc_bucket(token);
	int length = READ_ONCE(bucket->chain_len);

	return length && (length >= DC_TOKEN_MAX_CHAIN_LEN || dc_bucket_find(bucket, token));
}

/* mptcp_token_new_request() for a token that @req has already. */
bool dc_token_add_request(struct request_sock *req)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);
	struct dc_token_bucket *bucket = dc_bucket(subflow_req->token);
	bool busy;

	spin_lock_bh(&bucket->lock);
	busy = dc_bucket_busy(bucket, subflow_req->token);
	if (!busy) {
		hlist_nulls_add_head_rcu(&subflow_req->token_node, &bucket->req_chain);
		bucket->chain_len++;
	}
	spin_unlock_bh(&bucket->lock);
	return !busy;
}

static bool dc_request_set_capable(struct request_sock *req, const struct sk_buff *skb)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	subflow_req->ssn_offset = TCP_SKB_CB(skb)->seq;
	subflow_req->mp_capable = 1;
	return true;
}

/* dc_request_accept() without SYN cookies. Apart, as only this needs a stack frame. */
static noinline bool dc_request_accept_kept(struct request_sock *req, const struct sk_buff *skb)
{
	return dc_token_add_request(req) && dc_request_set_capable(req, skb);
}

/*
 * Makes @req an MP_CAPABLE one with the token that it has, unless that is busy or
 * its bucket full. With SYN cookies nothing is kept, so nothing is reserved.
 */
bool dc_request_accept(struct request_sock *req, const struct sk_buff *skb)
{
	if (!req->syncookie)
		return dc_request_accept_kept(req, skb);
	return !dc_token_busy(mptcp_subflow_rsk(req)->token) && dc_request_set_capable(req, skb);
}

/* mptcp_token_new_connect() for a token that the subflow @ssk has already. */
bool dc_token_add_connect(struct sock *ssk)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);
	struct dc_token_bucket *bucket = dc_bucket(subflow->token);
	struct sock *sk = subflow->conn;
	bool busy;

	spin_lock_bh(&bucket->lock);
	busy = dc_bucket_busy(bucket, subflow->token);
	if (!busy) {
		WRITE_ONCE(mptcp_sk(sk)->token, subflow->token);
		__sk_nulls_add_node_rcu(sk, &bucket->msk_chain);
		bucket->chain_len++;
	}
	spin_unlock_bh(&bucket->lock);
	if (!busy)
		sock_prot_inuse_add(sock_net(sk), sk->sk_prot, 1);
	return !busy;
}

/* mptcp_token_new_connect() with this key. False: its token is busy. */
bool dc_token_add_standard(struct sock *ssk, u64 key)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	subflow->local_key = key;
	dc_orig_key_sha(key, &subflow->token, &subflow->idsn);
	return subflow->token && dc_token_add_connect(ssk);
}

/* mptcp_token_destroy() of the connection that the subflow @ssk belongs to. */
void dc_token_release(struct sock *ssk)
{
	struct sock *sk = mptcp_subflow_ctx(ssk)->conn;
	struct mptcp_sock *msk = mptcp_sk(sk);
	u32 token = READ_ONCE(msk->token);
	struct dc_token_bucket *bucket = dc_bucket(token);
	bool found;

	spin_lock_bh(&bucket->lock);
	/* Unless the connection has been closed meanwhile. */
	found = token && dc_find_msk(bucket, token) == sk;
	if (found) {
		__sk_nulls_del_node_init_rcu(sk);
		bucket->chain_len--;
		WRITE_ONCE(msk->token, 0);
	}
	spin_unlock_bh(&bucket->lock);
	if (found)
		sock_prot_inuse_add(sock_net(sk), sk->sk_prot, -1);
}

/*
 * The namespace in which a request or connection holds @token with this local
 * key, at these ports; NULL if there is none.
 */
struct dc_netns *dc_token_owner(u32 token, u64 local_key, const struct tcphdr *th)
{
	struct dc_token_bucket *bucket = dc_bucket(token);
	struct mptcp_subflow_request_sock *subflow_req;
	struct dc_netns *ns = NULL;
	struct sock *sk;

	spin_lock_bh(&bucket->lock);
	subflow_req = dc_find_request(bucket, token);
	if (subflow_req) {
		const struct inet_request_sock *ireq = inet_rsk((struct request_sock *)subflow_req);

		if (subflow_req->local_key == local_key && htons(ireq->ir_num) == th->dest &&
		    ireq->ir_rmt_port == th->source)
			ns = dc_netns_of(read_pnet(&ireq->ireq_net));
		goto unlock;
	}
	sk = dc_find_msk(bucket, token);
	if (sk && READ_ONCE(mptcp_sk(sk)->local_key) == local_key &&
	    inet_sk(sk)->inet_sport == th->dest && inet_sk(sk)->inet_dport == th->source)
		ns = dc_netns_of(sock_net(sk));
unlock:
	spin_unlock_bh(&bucket->lock);
	return ns;
}

/* Changes CONFIG_HZ times a second. */
u32 dc_tick(void)
{
	return jiffies;
}

void dc_bh_disable(void)
{
	local_bh_disable();
}

void dc_bh_enable(void)
{
	local_bh_enable();
}

/* How many counters @cpu has taken in @epoch. Another CPU's answer may be old. */
u32 dc_cursor_of(u32 cpu, u32 epoch)
{
	const struct dc_cursor *cursor;

	if (cpu >= nr_cpu_ids || !cpu_possible(cpu))
		return 0;
	cursor = per_cpu_ptr(&dc_cursors, cpu);
	return READ_ONCE(cursor->epoch) == epoch ? READ_ONCE(cursor->taken) : 0;
}

static void dc_rekey_work_fn(struct work_struct *work)
{
	dc_rekey();
	/* One secret serves all namespaces. */
	dc_count(dc_netns_of(&init_net), DC_COUNT_TOKEN_REKEY);
}

static DECLARE_WORK(dc_rekey_work, dc_rekey_work_fn);

/* Asks for a new secret, from any context. */
void dc_rekey_schedule(void)
{
	schedule_work(&dc_rekey_work);
}

void dc_rekey_cancel(void)
{
	cancel_work_sync(&dc_rekey_work);
}

static void dc_control_work_fn(struct work_struct *work)
{
	dc_control_work();
}

static DECLARE_DELAYED_WORK(dc_control, dc_control_work_fn);

/* Asks for dc_control_work() in so many seconds from now on, from any context. */
void dc_control_schedule(u32 seconds)
{
	mod_delayed_work(system_dfl_wq, &dc_control, seconds * HZ);
}

void dc_control_cancel(void)
{
	cancel_delayed_work_sync(&dc_control);
}

u32 dc_cpus(void)
{
	return nr_cpu_ids;
}

/* Steps of 64 seconds since the host started. */
u64 dc_time_epoch(void)
{
	return ktime_get_seconds() >> 6;
}
