// SPDX-License-Identifier: GPL-2.0
/*
 * MP_JOIN of our connections: what subflow_check_req() and its like do with an
 * MP_JOIN, less random nonces and the stock HMAC. And the standard one, with a
 * nonce that is given.
 */
#include <linux/unaligned.h>
#include "protocol.h"
#include "mib.h"
#include "dc.h"

/*
 * In subflow_req->thmac, which has no other use then: the request was made of an
 * ACK alone, before its addresses were known, so its address ID is still open.
 * Its HMAC, if it needs one, was right.
 */
#define DC_LOCAL_ID_OPEN	1ULL

/* proto::key::is_low_overhead() of a request */
bool dc_request_is_ours(const struct mptcp_subflow_request_sock *subflow_req)
{
	return subflow_req->token && subflow_req->token == subflow_req->local_key >> 32 &&
	       subflow_req->idsn == ror64(subflow_req->local_key, 32);
}

/*
 * proto::key::is_low_overhead() of a connection, of either mode. Its data sequence number stands
 * in the first subflow, until that one is closed and cleared.
 */
static __always_inline bool dc_msk_is_low_overhead_rcu(const struct mptcp_sock *msk)
{
	u64 local_key = READ_ONCE(msk->local_key);
	u32 token = READ_ONCE(msk->token);
	const struct mptcp_subflow_context *subflow;
	const struct sock *first;
	u64 idsn;

	if (!token || token != local_key >> 32)
		return false;
	first = READ_ONCE(msk->first);
	subflow = first ? mptcp_subflow_ctx(first) : NULL;
	idsn = subflow ? READ_ONCE(subflow->idsn) : 0;
	return !idsn || idsn == ror64(local_key, 32);
}

bool dc_msk_is_low_overhead(const struct mptcp_sock *msk)
{
	bool is;

	rcu_read_lock();
	is = dc_msk_is_low_overhead_rcu(msk);
	rcu_read_unlock();
	return is;
}

/* The key field of the peer of a connection of ours, which begins with its token; else 0. */
u64 dc_msk_peer_key(const struct mptcp_sock *msk)
{
	return dc_msk_is_low_overhead(msk) ? READ_ONCE(msk->remote_key) : 0;
}

static bool dc_msk_has_mode(const struct mptcp_sock *msk, bool external)
{
	return (READ_ONCE(msk->local_key) & 1) == external && dc_msk_is_low_overhead(msk);
}

static noinline struct mptcp_sock *dc_join_put(struct mptcp_sock *msk)
{
	sock_put((struct sock *)msk);
	return NULL;
}

/*
 * A reference to the connection of @net with this token and, if @mode, mode; or
 * NULL. In softirq.
 */
static __always_inline struct mptcp_sock *dc_join_get(struct net *net, u32 token, bool mode,
						      bool external)
{
	struct mptcp_sock *msk = dc_token_get(net, token);

	if (msk && mode && ((READ_ONCE(msk->local_key) & 1) != external ||
			    !dc_msk_is_low_overhead_rcu(msk)))
		return dc_join_put(msk);
	return msk;
}

static noinline int dc_join_refuse(struct sk_buff *skb, u8 reason)
{
	struct mptcp_ext *mpext = skb_ext_add(skb, SKB_EXT_MPTCP);

	if (mpext) {
		memset(mpext, 0, sizeof(*mpext));
		mpext->reset_reason = reason;
	}
	return -EPERM;
}

/* mptcp_can_accept_new_subflow() */
static bool dc_join_allowed(const struct mptcp_sock *msk)
{
	return mptcp_is_fully_established((void *)msk) &&
	       ((mptcp_pm_is_userspace(msk) && dc_userspace_pm_active(msk)) ||
		READ_ONCE(msk->pm.accept_subflow));
}

static bool dc_join_local_id(struct mptcp_subflow_request_sock *subflow_req)
{
	struct sock_common *common = (struct sock_common *)subflow_req;
	struct mptcp_sock *msk = subflow_req->msk;
	int id = dc_pm_local_id(msk, common);

	if (id < 0) {
		MPTCP_INC_STATS(sock_net((struct sock *)msk), MPTCP_MIB_MPJOINNOIDFOUND);
		return false;
	}
	subflow_req->local_id = id;
	subflow_req->request_bkup = dc_pm_is_backup(msk, common);
	return true;
}

static void dc_join_set(struct mptcp_subflow_request_sock *subflow_req, u32 ssn_offset,
			const struct dc_join *join)
{
	subflow_req->ssn_offset = ssn_offset;
	subflow_req->mp_join = 1;
	subflow_req->backup = join->backup;
	subflow_req->remote_id = join->address_id;
	subflow_req->token = join->token;
	subflow_req->remote_nonce = join->nonce;
	subflow_req->local_nonce = 0;
	subflow_req->thmac = 0;
}

/* subflow_req_create_thmac(), with a nonce that is given */
static noinline void dc_join_sign(struct mptcp_subflow_request_sock *subflow_req, u32 nonce)
{
	const struct mptcp_sock *msk = subflow_req->msk;
	u8 hmac[SHA256_DIGEST_SIZE];
	u8 msg[8];

	subflow_req->local_nonce = nonce;
	put_unaligned_be32(nonce, &msg[0]);
	put_unaligned_be32(subflow_req->remote_nonce, &msg[4]);
	dc_orig_hmac_sha(READ_ONCE(msk->local_key), READ_ONCE(msk->remote_key), msg, sizeof(msg),
			 hmac);
	subflow_req->thmac = get_unaligned_be64(hmac);
}

/*
 * A SYN with MP_JOIN: a standard one with this nonce, or with 0 one of ours.
 * Returns 0, or -EPERM for a reset. With external keys dc_join_answer() follows.
 * In softirq.
 */
int dc_join_syn(struct request_sock *req, const struct sock *listener, struct sk_buff *skb,
		const struct dc_join *join, struct dc_netns *ns, u32 standard_nonce)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);
	struct net *net = sock_net(listener);
	struct mptcp_sock *msk;

	dc_count_one(ns, standard_nonce ? DC_COUNT_NONCE_DERIVED : DC_COUNT_JOIN_SYN_RX);
	MPTCP_INC_STATS(net, MPTCP_MIB_JOINSYNRX);
	if (join->backup)
		MPTCP_INC_STATS(net, MPTCP_MIB_JOINSYNBACKUPRX);

	msk = dc_join_get(net, join->token, !standard_nonce, join->external);
	if (!msk) {
		MPTCP_INC_STATS(net, MPTCP_MIB_JOINNOTOKEN);
		if (!standard_nonce)
			dc_count(ns, DC_COUNT_JOIN_NO_TOKEN);
		return dc_join_refuse(skb, MPTCP_RST_EMPTCP);
	}
	dc_join_set(subflow_req, TCP_SKB_CB(skb)->seq, join);
	/* The request owns the reference from here on. */
	subflow_req->msk = msk;
	if (!dc_join_local_id(subflow_req))
		return dc_join_refuse(skb, MPTCP_RST_EMPTCP);

	if (inet_sk(listener)->inet_sport != inet_sk((struct sock *)msk)->inet_sport) {
		if (!dc_pm_announced(msk, listener)) {
			MPTCP_INC_STATS(net, MPTCP_MIB_MISMATCHPORTSYNRX);
			return dc_join_refuse(skb, MPTCP_RST_EPROHIBIT);
		}
		MPTCP_INC_STATS(net, MPTCP_MIB_JOINPORTSYNRX);
	}
	if (standard_nonce) {
		dc_join_sign(subflow_req, standard_nonce);
	} else if (!join->external) {
		/* By its key field the SYN/ACK's writer knows the request. */
		subflow_req->local_key = READ_ONCE(msk->local_key);
		subflow_req->idsn = ror64(subflow_req->local_key, 32);
	}
	if (req->syncookie) {
		if (!dc_join_allowed(msk)) {
			MPTCP_INC_STATS(net, MPTCP_MIB_JOINREJECTED);
			return dc_join_refuse(skb, MPTCP_RST_EPROHIBIT);
		}
		if (standard_nonce)
			dc_cookie_join_save(subflow_req, skb);
	}
	return 0;
}

/* The ACK of a SYN cookie, with MP_JOIN. Returns 0, or -EINVAL: drop. */
int dc_join_cookie_ack(struct request_sock *req, const struct sock *listener, struct sk_buff *skb,
		       const struct dc_join *join)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);
	struct net *net = sock_net(listener);
	struct mptcp_sock *msk = dc_join_get(net, join->token, true, join->external);

	if (!msk) {
		dc_count(dc_netns_of(net), DC_COUNT_JOIN_NO_TOKEN);
		return -EINVAL;
	}
	dc_join_set(subflow_req, TCP_SKB_CB(skb)->seq - 1, join);
	subflow_req->msk = msk;
	subflow_req->thmac = DC_LOCAL_ID_OPEN;
	return 0;
}

/* The answer to the SYN of an external-key join. */
void dc_join_answer(struct request_sock *req, u32 nonce, u64 thmac)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	subflow_req->local_nonce = nonce;
	subflow_req->thmac = thmac;
}

/* The ACK of a SYN cookie had the right HMAC for our @nonce. */
void dc_join_verified(struct request_sock *req, u32 nonce)
{
	mptcp_subflow_rsk(req)->local_nonce = nonce;
}

/*
 * The SYN gets no answer now, and hopefully comes again: the stack sends no reset
 * where it would answer with a cookie.
 */
void dc_join_drop(struct request_sock *req)
{
	req->syncookie = 1;
}

/* Is the request a low-overhead join? Then it has no nonces. */
bool dc_request_joins(const struct request_sock *req)
{
	const struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);
	const struct mptcp_sock *msk;

	if (!tcp_rsk(req)->is_mptcp || !subflow_req->mp_join ||
	    subflow_req->local_nonce || subflow_req->remote_nonce)
		return false;
	msk = READ_ONCE(subflow_req->msk);
	return msk && dc_msk_has_mode(msk, false);
}

/* Is it an external-key join? */
bool dc_request_joins_external(const struct request_sock *req)
{
	const struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);
	const struct mptcp_sock *msk;

	if (!READ_ONCE(dc_apps_used) || !tcp_rsk(req)->is_mptcp || !subflow_req->mp_join)
		return false;
	msk = READ_ONCE(subflow_req->msk);
	return msk && dc_msk_has_mode(msk, true);
}

/* Is it an MP_CAPABLE with external keys? */
bool dc_request_is_external_capable(const struct request_sock *req)
{
	const struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	return tcp_rsk(req)->is_mptcp && subflow_req->mp_capable && (subflow_req->local_key & 1) &&
	       dc_request_is_ours(subflow_req);
}

void dc_msk_hold(struct mptcp_sock *msk)
{
	sock_hold((struct sock *)msk);
}

void dc_msk_put(struct mptcp_sock *msk)
{
	sock_put((struct sock *)msk);
}

/* Has the connection no subflow besides its first? */
bool dc_msk_is_alone(const struct mptcp_sock *msk)
{
	return !READ_ONCE(msk->pm.extra_subflows);
}

/* What mptcp_incoming_options() does with an MP_FASTCLOSE. */
void dc_msk_abort(struct mptcp_sock *msk)
{
	WRITE_ONCE(msk->rcv_fastclose, true);
	dc_schedule_work((struct sock *)msk);
	MPTCP_INC_STATS(sock_net((struct sock *)msk), MPTCP_MIB_MPFASTCLOSERX);
}

/* The request of a join of ours. False for any other request. */
bool dc_join_request_of(const struct request_sock *req, struct dc_join_request *of)
{
	const struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);
	struct mptcp_sock *msk;

	of->external = dc_request_joins_external(req);
	if (!of->external && !dc_request_joins(req))
		return false;
	msk = READ_ONCE(subflow_req->msk);
	if (!msk)
		return false;
	of->msk = msk;
	of->token = subflow_req->token;
	of->local_key = READ_ONCE(msk->local_key);
	of->remote_key = READ_ONCE(msk->remote_key);
	of->local_nonce = subflow_req->local_nonce;
	of->remote_nonce = subflow_req->remote_nonce;
	of->verified = subflow_req->thmac == DC_LOCAL_ID_OPEN;
	return true;
}

/* It is about to become a subflow. False: the path manager doesn't know the address. */
bool dc_join_complete(struct request_sock *req)
{
	struct mptcp_subflow_request_sock *subflow_req = mptcp_subflow_rsk(req);

	if (subflow_req->thmac == DC_LOCAL_ID_OPEN) {
		if (!dc_join_local_id(subflow_req))
			return false;
		subflow_req->thmac = 0;
	}
	return true;
}

/*
 * A subflow that connects: does it join a connection of ours? If so, it
 * gets what __mptcp_subflow_connect() made of a hash, the peer's token, and the
 * data sequence number that marks this end.
 */
bool dc_subflow_joins(struct sock *ssk)
{
	struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);
	u64 remote_key;

	if (!subflow->request_join || !dc_msk_is_low_overhead(mptcp_sk(subflow->conn)))
		return false;
	subflow->idsn = ror64(subflow->local_key, 32);
	remote_key = READ_ONCE(mptcp_sk(subflow->conn)->remote_key);
	subflow->remote_token = remote_key >> 32;
	/*
	 * The stock code would judge the answer, if the module goes before it comes, by
	 * the key fields that anybody has seen. The HMACs under the application's key need
	 * none of the subflow's.
	 */
	if ((subflow->local_key & 1) && subflow->remote_key == remote_key)
		get_random_bytes(&subflow->remote_key, sizeof(subflow->remote_key));
	return true;
}

bool dc_subflow_is_join(const struct sock *ssk)
{
	return mptcp_subflow_ctx(ssk)->request_join;
}

/*
 * Is @skb the first SYN of a subflow that joins? Then *@isn is its sequence
 * number. mptcp_syn_options() notes in snd_isn which SYN it has seen.
 */
bool dc_subflow_first_join_syn(const struct sock *ssk, const struct sk_buff *skb, u32 *isn)
{
	const struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	if (!subflow->request_join || subflow->snd_isn == TCP_SKB_CB(skb)->end_seq)
		return false;
	*isn = TCP_SKB_CB(skb)->seq;
	return true;
}

/* The nonce of the MP_JOIN in a SYN about to be written. */
void dc_subflow_set_nonce(struct sock *ssk, u32 nonce)
{
	mptcp_subflow_ctx(ssk)->local_nonce = nonce;
}

/* What the MP_JOIN of an ACK repeats of the SYN's. */
void dc_subflow_join_fields(const struct sock *ssk, struct dc_join *join)
{
	const struct mptcp_subflow_context *subflow = mptcp_subflow_ctx(ssk);

	join->token = subflow->remote_token;
	join->address_id = subflow->local_id;
	join->backup = subflow->request_bkup;
	join->nonce = subflow->local_nonce;
	memcpy(join->hmac, subflow->hmac, sizeof(join->hmac));
}

/* What mptcp_parse_option() stores of an MP_JOIN; HMAC and nonce are nought. */
void dc_received_join(struct mptcp_options_received *mp_opt, u16 suboption,
		      const struct dc_join *join)
{
	u16 kept = mp_opt->suboptions & (OPTION_MPTCP_RM_ADDR | OPTION_MPTCP_PRIO);

	memset(&mp_opt->status, 0, sizeof(mp_opt->status));
	mp_opt->suboptions = kept | suboption;
	mp_opt->backup = join->backup;
	mp_opt->join_id = join->address_id;
	mp_opt->token = join->token;
	mp_opt->nonce = 0;
	mp_opt->thmac = 0;
	memset(mp_opt->hmac, 0, sizeof(mp_opt->hmac));
}

/* Does a connection of this mode, of whatever namespace, hold this token? */
bool dc_token_has_mode(u32 token, bool external)
{
	struct mptcp_sock *msk;
	bool has;

	rcu_read_lock();
	msk = dc_token_find(token);
	has = msk && dc_msk_has_mode(msk, external);
	rcu_read_unlock();
	return has;
}
