// SPDX-License-Identifier: GPL-2.0
/*
 * Walks over the stack's token table: what is under way there, and, when the
 * module goes, what becomes of it.
 *
 * Nobody is waited for: a socket whose lock a task holds may be held for as long
 * as some user likes, who sends from a page that never comes. Entries are looked
 * at with their bucket locked, so none can be missed because another moved.
 */
#include "protocol.h"
#include "mib.h"
#include "dc.h"

/* A bucket has room for four tokens (TOKEN_MAX_CHAIN_LEN of token.c). */
#define DC_BUCKET_MOST	8

static const struct mptcp_subflow_context *dc_first_ctx(const struct mptcp_sock *msk)
{
	const struct sock *ssk = READ_ONCE(msk->first);

	return ssk ? mptcp_subflow_ctx(ssk) : NULL;
}

/*
 * May the peer of this connection of ours, or this end, still send an
 * MP_CAPABLE? A client does until it heard something of MPTCP behind the
 * handshake; that it did, a server knows from data or from an acknowledgement of
 * data. Called under the RCU read lock.
 */
static bool dc_msk_is_under_way(const struct mptcp_sock *msk)
{
	const struct mptcp_subflow_context *subflow;

	if (__mptcp_check_fallback(msk))
		return false;
	subflow = dc_first_ctx(msk);
	if (!subflow || !dc_subflow_is_low_overhead(subflow))
		return false;
	if (!READ_ONCE(msk->pm.server_side))
		return !READ_ONCE(subflow->fully_established);
	return !subflow->remote_key_valid ||
	       (READ_ONCE(msk->ack_seq) == subflow->iasn &&
		READ_ONCE(msk->snd_una) == subflow->idsn + 1);
}

/* Bits of enum dc_survey: for whom hooks must stand. Sleeps. */
u32 dc_survey(void)
{
	u32 found = 0;
	unsigned int i;

	for (i = 0; i <= dc_token_mask(); i++) {
		struct dc_token_bucket *bucket = dc_token_bucket_at(i);
		struct mptcp_subflow_request_sock *subflow_req;
		struct hlist_nulls_node *pos;
		struct sock *sk;

		if (!READ_ONCE(bucket->chain_len)) {
			cond_resched();
			continue;
		}
		spin_lock_bh(&bucket->lock);
		hlist_nulls_for_each_entry_rcu(subflow_req, pos, &bucket->req_chain, token_node) {
			if (!dc_request_is_ours(subflow_req))
				continue;
			found |= DC_SURVEY_HANDSHAKE;
			if (subflow_req->local_key & 1)
				found |= DC_SURVEY_EXTERNAL;
		}
		sk_nulls_for_each_rcu(sk, pos, &bucket->msk_chain) {
			if (dc_msk_is_under_way(mptcp_sk(sk)))
				found |= DC_SURVEY_HANDSHAKE;
			if (dc_msk_is_external(mptcp_sk(sk)))
				found |= DC_SURVEY_EXTERNAL;
		}
		spin_unlock_bh(&bucket->lock);
		cond_resched();
	}
	return found;
}

/* The subflow @ssk, which isn't connected and may be listening, will have nothing to do with MPTCP. */
void dc_subflow_disable(struct sock *ssk)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	dc_sock_lock(ssk);
	if (subflow && subflow->request_mptcp) {
		subflow->request_mptcp = 0;
		if (ssk->sk_state == TCP_CLOSE)
			dc_orig_try_fallback(mptcp_sk(subflow->conn),
					     MPTCP_MIB_TOKENFALLBACKINIT);
	}
	dc_sock_unlock(ssk);
}

/*
 * A client whose SYN of ours is out, or about to be. Its answer would not be
 * understood without the hooks: it begins again with version 1, or with external
 * keys as plain TCP. False: a task holds the subflow's lock.
 *
 * If @force, that doesn't matter: the task has had a second, so what it waits for
 * is a page of data for its SYN (TCP Fast Open). It touches none of the fields
 * that are written here until the SYN is sent.
 */
static bool dc_settle_syn(struct sock *ssk, bool force)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);
	bool settled = true;

	dc_sock_lock(ssk);
	if (!subflow || !dc_subflow_is_low_overhead(subflow) || !dc_subflow_awaits_synack(ssk))
		goto unlock;
	/* It was closed meanwhile. */
	if (inet_sk_state_load(subflow->conn) != TCP_SYN_SENT)
		goto unlock;
	/* A task has the lock, or is on its way to connect() and has it in a moment. */
	if (sock_owned_by_user_nocheck(ssk) || ssk->sk_state != TCP_SYN_SENT) {
		settled = force;
		if (force)
			dc_subflow_refuse(ssk);
	} else if (subflow->local_key & 1) {
		dc_subflow_refuse(ssk);
	} else {
		dc_subflow_restart(ssk);
	}
unlock:
	dc_sock_unlock(ssk);
	return settled;
}

/*
 * A client that would send its MP_CAPABLE with its first data goes on without:
 * mptcp_established_options_mp() does so where the sequence number isn't the one
 * noted. It isn't taken for fully established, as its ACK may be lost, or come to
 * a host that has no module anymore, either: if the peer says nothing of MPTCP, it
 * falls back.
 */
static void dc_settle_silent(const struct sock *ssk, struct mptcp_subflow_context *subflow)
{
	/* Farther away than any window. */
	WRITE_ONCE(subflow->snd_isn, READ_ONCE(tcp_sk(ssk)->snd_una) + BIT(31));
}

/*
 * An external-key connection. The stock code would take joins under the key
 * fields, which anybody on the path has seen; and would be aborted by whoever
 * knows this end's. So they become what the ends say when they abort: nobody
 * else can know it, and the peer says and expects just that. Subflows under way
 * have never had key fields that anybody knows.
 *
 * Whoever holds the lock may be about to make such a subflow, and have read the
 * fields; so there is some patience before @force.
 */
static bool dc_settle_external(struct mptcp_sock *msk, bool force)
{
	struct sock *sk = (struct sock *)msk;
	bool settled = true;
	u64 ours, theirs;

	mptcp_data_lock(sk);
	if (!dc_msk_is_external(msk)) {
		/* Someone was quicker. */
	} else if (sock_owned_by_user_nocheck(sk) && !force) {
		settled = false;
	} else {
		dc_abort_keys(msk, &ours, &theirs);
		WRITE_ONCE(msk->local_key, theirs);
		WRITE_ONCE(msk->remote_key, ours);
	}
	mptcp_data_unlock(sk);
	return settled;
}

static bool dc_settle_msk(struct mptcp_sock *msk, bool force)
{
	struct mptcp_subflow_context *subflow;
	bool settled = true;
	struct sock *ssk;

	rcu_read_lock();
	ssk = READ_ONCE(msk->first);
	if (ssk && !refcount_inc_not_zero(&ssk->sk_refcnt))
		ssk = NULL;
	/* Its memory may have become another's just before. */
	if (ssk && READ_ONCE(msk->first) != ssk) {
		sock_put(ssk);
		ssk = NULL;
	}
	subflow = ssk ? mptcp_subflow_ctx(ssk) : NULL;
	if (subflow && !READ_ONCE(msk->pm.server_side) && !__mptcp_check_fallback(msk) &&
	    dc_subflow_is_low_overhead(subflow)) {
		if (dc_subflow_awaits_synack(ssk))
			settled = dc_settle_syn(ssk, force);
		else if (subflow->mp_capable && subflow->remote_key_valid &&
			 !READ_ONCE(subflow->fully_established))
			dc_settle_silent(ssk, subflow);
	}
	rcu_read_unlock();
	if (ssk)
		sock_put(ssk);
	if (READ_ONCE(msk->local_key) && dc_msk_is_external(msk))
		settled = dc_settle_external(msk, force) && settled;
	return settled;
}

/* Has dc_settle_msk() something to do? Called under the RCU read lock. */
static bool dc_msk_is_unsettled(const struct mptcp_sock *msk)
{
	return (!READ_ONCE(msk->pm.server_side) && dc_msk_is_under_way(msk)) ||
	       (READ_ONCE(msk->local_key) && dc_msk_is_external(msk));
}

/* Settles what is in a bucket. True: nothing is left there. */
static bool dc_settle_bucket(struct dc_token_bucket *bucket, bool force)
{
	struct mptcp_subflow_request_sock *subflow_req;
	struct sock *found[DC_BUCKET_MOST];
	unsigned int i, count = 0;
	struct hlist_nulls_node *pos;
	bool settled = true;
	struct sock *sk;

	spin_lock_bh(&bucket->lock);
	/*
	 * A request becomes one of plain TCP: its SYN/ACK, sent again, and its ACK would
	 * else be half in one protocol and half in the other.
	 */
	hlist_nulls_for_each_entry_rcu(subflow_req, pos, &bucket->req_chain, token_node) {
		if (dc_request_is_ours(subflow_req))
			subflow_req->mp_capable = 0;
	}
	sk_nulls_for_each_rcu(sk, pos, &bucket->msk_chain) {
		if (!dc_msk_is_unsettled(mptcp_sk(sk)))
			continue;
		if (count == DC_BUCKET_MOST)
			settled = false;
		else if (refcount_inc_not_zero(&sk->sk_refcnt))
			found[count++] = sk;
	}
	spin_unlock_bh(&bucket->lock);

	for (i = 0; i < count; i++) {
		settled = dc_settle_msk(mptcp_sk(found[i]), force) && settled;
		sock_put(found[i]);
	}
	return settled;
}

/*
 * Brings every handshake of every namespace to where it goes on without the
 * module. How many buckets have one left for which a lock was missing; none if
 * @force. Called when no handshake of ours begins anymore. Sleeps.
 */
unsigned int dc_settle(bool force)
{
	unsigned int i, left = 0;

	for (i = 0; i <= dc_token_mask(); i++) {
		struct dc_token_bucket *bucket = dc_token_bucket_at(i);

		if (READ_ONCE(bucket->chain_len) && !dc_settle_bucket(bucket, force))
			left++;
		cond_resched();
	}
	return left;
}
