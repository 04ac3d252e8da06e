// SPDX-License-Identifier: GPL-2.0
/*
 * What applications ask of their sockets by setsockopt(): external keys, the
 * keys themselves, and the mode.
 *
 * A socket has an entry from the first such option until it is destroyed. The
 * children of a listener need none until their key comes: that they are external
 * stands in their key field (proto::key::KeyField::is_external()).
 */
#include <crypto/sha2.h>
#include <linux/hash.h>
#include <linux/rhashtable.h>
#include <linux/sockptr.h>
#include <linux/uaccess.h>
#include "protocol.h"
#include "dc.h"
#include "../../include/uapi/linux/mptcp_dc.h"

/* How long, in steps of dc_time_epoch(), a replaced key and a nonce are good: one to two. */
#define DC_APP_KEPT	1

/* The keys of a connection. Never changed: a new one replaces it. */
struct dc_app_keys {
	struct rcu_head		rcu;
	bool			replaced;	/* there is a previous one */
	u32			since;		/* the dc_time_epoch() in which it was replaced */
	struct hmac_sha256_key	key;
	struct hmac_sha256_key	previous;
};

/*
 * Room for joins: at first for as many as there mostly are, then twice as many, and so
 * on; at most for three times the subflows that the path manager allows.
 */
#define DC_APP_JOINS_FIRST	6
#define DC_APP_JOINS_MOST	192

/*
 * Our nonces of the joins that came lately, so that none comes twice. A nonce is
 * good in two steps of dc_time_epoch(), so it is kept as long.
 */
struct dc_app_join {
	u32	nonce;		/* 0: none */
	u32	epoch;		/* when it came */
	u32	pending;	/* how many CPUs are handling its ACK: one, but for duplicates */
	bool	taken;		/* it became a subflow */
};

struct dc_app_joins {
	unsigned int		used;
	unsigned int		room;
	struct dc_app_join	last[] __counted_by(room);
};

/* Written with the socket's lock held, but for node and joins. */
struct dc_app {
	struct rhash_head	node;
	struct rcu_head		rcu;
	const struct sock	*sk;
	bool			external;	/* MPTCP_ENABLE_APP_KEY */
	bool			holds_wire;	/* it is one for whom the hooks on segments stand */
	s8			lowoverhead;	/* MPTCP_LOWOVERHEAD; -1: the namespace's */
	u64			local_key;	/* of the connection that the keys are for */
	struct dc_app_keys __rcu	*keys;
	spinlock_t		joins_lock;
	struct dc_app_joins	*joins;		/* guarded by joins_lock; NULL: none came yet */
};

static struct rhashtable dc_apps;

/* Nobody chooses where sockets are, so a multiplication will do. */
static u32 dc_apps_hash(const void *key, u32 length, u32 seed)
{
	return hash_64(*(const u64 *)key, 32) ^ seed;
}

static int dc_apps_compare(struct rhashtable_compare_arg *arg, const void *app)
{
	return ((const struct dc_app *)app)->sk != *(const struct sock * const *)arg->key;
}

static const struct rhashtable_params dc_apps_params = {
	.hashfn			= dc_apps_hash,
	.obj_cmpfn		= dc_apps_compare,
	.key_len		= sizeof(struct sock *),
	.key_offset		= offsetof(struct dc_app, sk),
	.head_offset		= offsetof(struct dc_app, node),
	.automatic_shrinking	= true,
};

/*
 * Some socket has an entry, or did and an external-key connection is left. Who
 * sets and clears it is rust/control.rs.
 */
bool dc_apps_used __read_mostly;

/* Called under the RCU read lock. */
static struct dc_app *dc_app_find(const struct sock *sk)
{
	return rhashtable_lookup(&dc_apps, &sk, dc_apps_params);
}

/*
 * The entry of a socket, which lives as long as the socket; a new one if it has
 * none. NULL: no memory. Called with the socket's lock held.
 */
static struct dc_app *dc_app_get(struct sock *sk, gfp_t gfp)
{
	struct dc_app *app;

	rcu_read_lock();
	app = dc_app_find(sk);
	rcu_read_unlock();
	if (app)
		return app;

	app = kzalloc_obj(*app, gfp);
	if (!app)
		return NULL;
	app->sk = sk;
	app->lowoverhead = -1;
	spin_lock_init(&app->joins_lock);
	/* First: whoever finds the entry must look for one. */
	dc_app_added();
	if (rhashtable_insert_fast(&dc_apps, &app->node, dc_apps_params)) {
		dc_app_removed();
		kfree(app);
		return NULL;
	}
	return app;
}

static void dc_app_keys_free(struct rcu_head *rcu)
{
	kfree_sensitive(container_of(rcu, struct dc_app_keys, rcu));
}

static void dc_app_free(struct rcu_head *rcu)
{
	struct dc_app *app = container_of(rcu, struct dc_app, rcu);

	kfree(app->joins);
	kfree(app);
}

/* Called with the socket's lock held, or when nobody else has the entry. */
static void dc_app_set_keys(struct dc_app *app, struct dc_app_keys *keys)
{
	keys = rcu_replace_pointer(app->keys, keys, true);
	if (keys)
		call_rcu(&keys->rcu, dc_app_keys_free);
}

/* The socket is being destroyed. Any context. */
void dc_app_forget(const struct sock *sk)
{
	struct dc_app *app;

	rcu_read_lock();
	app = dc_app_find(sk);
	/* Nobody else removes it: a socket is destroyed once. */
	if (app)
		rhashtable_remove_fast(&dc_apps, &app->node, dc_apps_params);
	rcu_read_unlock();
	if (!app)
		return;
	dc_app_set_keys(app, NULL);
	if (app->holds_wire)
		dc_wire_put();
	dc_app_removed();
	call_rcu(&app->rcu, dc_app_free);
}

/*
 * How the MPTCP socket @sk is to connect, or to take connections. @lowoverhead
 * is the namespace's sysctl, and becomes the socket's value. True: with external
 * keys, or not at all. Called under the RCU read lock, or with softirqs disabled,
 * which is one.
 */
bool dc_app_mode(const struct sock *sk, u8 *lowoverhead)
{
	const struct dc_app *app = dc_app_find(sk);
	s8 own;

	if (!app)
		return false;
	own = READ_ONCE(app->lowoverhead);
	/* Without the namespace's consent there are no hooks on segments. */
	if (own >= 0 && *lowoverhead)
		*lowoverhead = own;
	return READ_ONCE(app->external);
}

/* An external-key connection? proto::key::KeyField::is_external() */
bool dc_msk_is_external(const struct mptcp_sock *msk)
{
	return (READ_ONCE(msk->local_key) & 1) && dc_msk_is_low_overhead(msk);
}

/* Called under the RCU read lock. */
static const struct dc_app_keys *dc_app_keys(const struct mptcp_sock *msk)
{
	const struct dc_app *app = dc_app_find((const struct sock *)msk);

	if (!app || READ_ONCE(app->local_key) != READ_ONCE(msk->local_key))
		return NULL;
	return rcu_dereference(app->keys);
}

/* Has the application given the connection its key? */
bool dc_app_has_key(const struct mptcp_sock *msk)
{
	bool has;

	/* Pairs with the barrier in dc_app_set_key(). */
	smp_mb();
	rcu_read_lock();
	has = dc_app_keys(msk);
	rcu_read_unlock();
	return has;
}

/*
 * HMAC-SHA256 of @message under the connection's key, or under the one before
 * it. False, and nothing is written, if there is no such key.
 */
bool dc_app_hmac(const struct mptcp_sock *msk, bool previous, const u8 *message, size_t length,
		 u8 *hmac)
{
	const struct dc_app_keys *keys;
	bool has;

	rcu_read_lock();
	keys = dc_app_keys(msk);
	has = keys && (!previous || (keys->replaced &&
				     (u32)dc_time_epoch() - keys->since <= DC_APP_KEPT));
	if (has)
		hmac_sha256(previous ? &keys->previous : &keys->key, message, length, hmac);
	rcu_read_unlock();
	return has;
}

/* Room for one join more; false if there is none. Called with the entry's joins_lock held. */
static bool dc_app_joins_grow(struct dc_app *app)
{
	struct dc_app_joins *old = app->joins, *joins;
	unsigned int room;

	if (old && old->used < old->room)
		return true;
	room = old ? 2 * old->room : DC_APP_JOINS_FIRST;
	if (room > DC_APP_JOINS_MOST)
		return false;
	joins = kmalloc_flex(*joins, last, room, GFP_ATOMIC);
	if (!joins)
		return false;
	joins->room = room;
	joins->used = old ? old->used : 0;
	if (old)
		memcpy(joins->last, old->last, old->used * sizeof(*old->last));
	app->joins = joins;
	kfree(old);
	return true;
}

/* Called with the entry's joins_lock held. NULL: there is no room for another. */
static struct dc_app_join *dc_app_join_find(struct dc_app *app, u32 nonce, bool add)
{
	struct dc_app_joins *joins = app->joins;
	struct dc_app_join *join, *free = NULL;
	u32 now = dc_time_epoch();
	unsigned int i;

	for (i = 0; joins && i < joins->used; i++) {
		join = &joins->last[i];
		if (join->nonce == nonce)
			return join;
		if (!join->nonce || (!join->pending && now - join->epoch > DC_APP_KEPT))
			free = join;
	}
	if (!add)
		return NULL;
	if (!free) {
		if (!dc_app_joins_grow(app))
			return NULL;
		joins = app->joins;
		free = &joins->last[joins->used++];
	}
	*free = (struct dc_app_join) { .nonce = nonce, .epoch = now };
	return free;
}

/*
 * A join came whose ACK has the right HMAC, for our @nonce, which isn't 0. False:
 * it is an old one once more, or one of very many. Else dc_app_join_end() follows.
 *
 * An ACK that came twice may be handled by two CPUs at a time. They are of the same
 * addresses and ports, so the stack makes a subflow of one of them, whichever.
 * Softirq.
 */
bool dc_app_join_begin(const struct mptcp_sock *msk, u32 nonce)
{
	struct dc_app_join *join;
	struct dc_app *app;
	bool is_new = false;

	rcu_read_lock();
	app = dc_app_find((const struct sock *)msk);
	if (app) {
		spin_lock_bh(&app->joins_lock);
		join = dc_app_join_find(app, nonce, true);
		is_new = join && (join->pending || !join->taken);
		if (is_new)
			join->pending++;
		spin_unlock_bh(&app->joins_lock);
	}
	rcu_read_unlock();
	return is_new;
}

/* The ACK was handled. If no subflow came of it, it may come again. */
void dc_app_join_end(const struct mptcp_sock *msk, u32 nonce, bool taken)
{
	struct dc_app_join *join;
	struct dc_app *app;

	rcu_read_lock();
	app = dc_app_find((const struct sock *)msk);
	if (app) {
		spin_lock_bh(&app->joins_lock);
		join = dc_app_join_find(app, nonce, false);
		if (join) {
			join->pending--;
			join->taken |= taken;
			if (!join->pending && !join->taken)
				join->nonce = 0;
		}
		spin_unlock_bh(&app->joins_lock);
	}
	rcu_read_unlock();
}

/*
 * The external-key connection with these keys, for as long as softirqs are
 * disabled; NULL if there is none.
 */
const struct mptcp_sock *dc_external_owner(u64 local_key, u64 remote_key)
{
	const struct mptcp_sock *msk = dc_token_find(local_key >> 32);

	if (!msk || READ_ONCE(msk->local_key) != local_key ||
	    READ_ONCE(msk->remote_key) != remote_key || !dc_msk_is_external(msk))
		return NULL;
	return msk;
}

/* Would the path manager start, though the connection has no key yet? */
bool dc_pm_must_wait(const struct mptcp_sock *msk)
{
	return dc_msk_is_external(msk) && !dc_app_has_key(msk);
}

/*
 * In how many jiffies the address that an external-key connection announced is
 * announced again, unless the peer says that it heard: it can't before it has its
 * key. The stack tries three times, and waits twice as long each time. Its
 * retransmission timeout is over with that after a second or two; this after
 * seven, at the moments when a SYN is repeated, too.
 */
unsigned int dc_external_add_addr_timeout(struct mptcp_sock *msk)
{
	unsigned int timeout = dc_orig_add_addr_timeout(msk);

	/* 0: never. */
	return timeout ? max_t(unsigned int, timeout, HZ) : 0;
}

/*
 * What a setsockopt() asks for, and how it may be done. At first nothing may
 * sleep, as this is code of a module that may be about to be unloaded. What then
 * can't be done without is done again with a reference to the module: see
 * dc_app_setsockopt().
 */
struct dc_wish {
	int		optname;
	sockptr_t	optval;
	unsigned int	optlen;
	bool		may_sleep;
	gfp_t		gfp;
};

/* To be done again, with may_sleep. */
#define DC_WOULD_SLEEP	EWOULDBLOCK

static int dc_wish_copy(const struct dc_wish *wish, void *to, size_t size)
{
	/* So that the compiler sees it, and leaves out a warning about sizes. */
	if (size > MPTCP_KEY_MAX)
		return -EINVAL;
	if (sockptr_is_kernel(wish->optval)) {
		memcpy(to, wish->optval.kernel, size);
		return 0;
	}
	if (!wish->may_sleep)
		return copy_from_user_nofault(to, wish->optval.user, size) ? -DC_WOULD_SLEEP : 0;
	return copy_from_user(to, wish->optval.user, size) ? -EFAULT : 0;
}

/* Without sleeping, the socket is locked as softirqs do it. */
static int dc_wish_lock(const struct dc_wish *wish, struct sock *sk)
{
	if (wish->may_sleep) {
		lock_sock(sk);
		return 0;
	}
	dc_sock_lock(sk);
	if (!sock_owned_by_user_nocheck(sk))
		return 0;
	dc_sock_unlock(sk);
	return -DC_WOULD_SLEEP;
}

static void dc_wish_unlock(const struct dc_wish *wish, struct sock *sk)
{
	if (wish->may_sleep)
		release_sock(sk);
	else
		dc_sock_unlock(sk);
}

/* -ENOMEM, or first another attempt with more patience. */
static int dc_wish_no_memory(const struct dc_wish *wish)
{
	return wish->may_sleep ? -ENOMEM : -DC_WOULD_SLEEP;
}

static int dc_wish_int(const struct dc_wish *wish, int *value)
{
	if (wish->optlen < sizeof(*value))
		return -EINVAL;
	return dc_wish_copy(wish, value, sizeof(*value));
}

/*
 * Is the socket neither connected, nor on the way, nor listening, and wasn't it
 * connected before (it could only connect() after a disconnect)? Called with its
 * lock held.
 */
static bool dc_app_is_fresh(const struct sock *sk)
{
	return sk->sk_state == TCP_CLOSE && sk->sk_socket &&
	       sk->sk_socket->state == SS_UNCONNECTED;
}

/* Called with the socket's lock held. *@wire: the caller holds the hooks for it. */
static int dc_app_note_external(const struct dc_wish *wish, struct sock *sk, bool value,
				bool *wire)
{
	struct dc_app *app;

	if (!dc_app_is_fresh(sk))
		return -EISCONN;
	rcu_read_lock();
	app = dc_app_find(sk);
	rcu_read_unlock();
	/* What every socket has needs no entry. */
	if (!app && !value)
		return 0;
	/* So that unloading finds a subflow whose MPTCP it can switch off: dc_apps_settle(). */
	if (value && !mptcp_sk(sk)->first) {
		if (!wish->may_sleep)
			return -DC_WOULD_SLEEP;
		if (IS_ERR(dc_first_subflow(mptcp_sk(sk))))
			return -ENOMEM;
	}
	app = dc_app_get(sk, wish->gfp);
	if (!app)
		return dc_wish_no_memory(wish);
	WRITE_ONCE(app->external, value);
	if (*wire)
		swap(app->holds_wire, *wire);
	return 0;
}

static int dc_app_set_external(const struct dc_wish *wish, struct sock *sk)
{
	bool wire = false;
	int value, err;

	err = dc_wish_int(wish, &value);
	if (err)
		return err;
	if (value != 0 && value != 1)
		return -EINVAL;
	if (value) {
		if (!READ_ONCE(dc_netns_of(sock_net(sk))->app_key))
			return -EPERM;
		err = dc_wire_get(wish->may_sleep);
		if (err)
			return err;
		wire = true;
	}

	err = dc_wish_lock(wish, sk);
	if (!err) {
		err = dc_app_note_external(wish, sk, value, &wire);
		dc_wish_unlock(wish, sk);
	}
	/* The socket had one already, or gets none. */
	if (wire)
		dc_wire_put();
	return err;
}

static int dc_app_set_lowoverhead(const struct dc_wish *wish, struct sock *sk)
{
	struct dc_app *app;
	bool is_off;
	int value, err;

	err = dc_wish_int(wish, &value);
	if (err)
		return err;
	if (value < 0 || value > 2)
		return -EINVAL;
	is_off = !READ_ONCE(dc_netns_of(sock_net(sk))->lowoverhead);
	if (value && is_off)
		return -EPERM;

	err = dc_wish_lock(wish, sk);
	if (err)
		return err;
	if (!dc_app_is_fresh(sk)) {
		err = -EISCONN;
	} else if (!is_off) {
		/* What it is anyway needs no entry, which would cost others. */
		app = dc_app_get(sk, wish->gfp);
		if (app)
			WRITE_ONCE(app->lowoverhead, value);
		else
			err = dc_wish_no_memory(wish);
	}
	dc_wish_unlock(wish, sk);
	return err;
}

/* Can the socket have a key now? Called with its lock held. */
static int dc_app_takes_key(const struct sock *sk)
{
	const struct mptcp_sock *msk = mptcp_sk(sk);

	if ((1 << sk->sk_state) & (TCPF_CLOSE | TCPF_LISTEN | TCPF_SYN_SENT | TCPF_SYN_RECV))
		return -ENOTCONN;
	if (__mptcp_check_fallback(msk) || !dc_msk_is_external(msk))
		return -EOPNOTSUPP;
	return 0;
}

/* Called with the socket's lock held. *@wire: the caller holds the hooks for it. */
static int dc_app_replace_key(const struct dc_wish *wish, struct sock *sk, const u8 *key,
			      bool *wire)
{
	struct mptcp_sock *msk = mptcp_sk(sk);
	struct dc_app_keys *keys, *old;
	struct dc_app *app;
	int err;

	err = dc_app_takes_key(sk);
	if (err)
		return err;

	app = dc_app_get(sk, wish->gfp);
	keys = app ? kzalloc_obj(*keys, wish->gfp) : NULL;
	if (!keys)
		return dc_wish_no_memory(wish);
	hmac_sha256_preparekey(&keys->key, key, wish->optlen);
	old = rcu_dereference_protected(app->keys, true);
	if (old && app->local_key == msk->local_key) {
		keys->replaced = true;
		keys->since = dc_time_epoch();
		keys->previous = old->key;
	} else {
		dc_app_set_keys(app, NULL);
		WRITE_ONCE(app->local_key, msk->local_key);
	}
	dc_app_set_keys(app, keys);
	if (!app->holds_wire) {
		app->holds_wire = true;
		*wire = false;
	}
	dc_count(dc_netns_of(sock_net(sk)), DC_COUNT_APP_KEY_SET);

	/* Pairs with the one in dc_app_has_key(): one of both sees what the other wrote. */
	smp_mb();
	if (READ_ONCE(msk->fully_established) && msk->first)
		dc_orig_pm_fully_established(msk, msk->first);
	return 0;
}

static int dc_app_set_key(const struct dc_wish *wish, struct sock *sk)
{
	u8 key[MPTCP_KEY_MAX];
	bool wire = true;
	int err;

	if (wish->optlen < MPTCP_KEY_MIN || wish->optlen > sizeof(key))
		return -EINVAL;
	err = dc_wish_lock(wish, sk);
	if (err)
		return err;
	/* First, because the hooks cost all sockets: who is refused doesn't get them. */
	err = dc_app_takes_key(sk);
	dc_wish_unlock(wish, sk);
	if (err)
		return err;
	err = dc_wish_copy(wish, key, wish->optlen);
	if (err)
		goto wipe;
	err = dc_wire_get(wish->may_sleep);
	if (err)
		goto wipe;
	err = dc_wish_lock(wish, sk);
	if (!err) {
		err = dc_app_replace_key(wish, sk, key, &wire);
		dc_wish_unlock(wish, sk);
	}
	if (wire)
		dc_wire_put();
wipe:
	memzero_explicit(key, sizeof(key));
	return err;
}

static int dc_wish_fulfil(const struct dc_wish *wish, struct sock *sk)
{
	switch (wish->optname) {
	case MPTCP_ENABLE_APP_KEY:
		return dc_app_set_external(wish, sk);
	case MPTCP_KEY:
		return dc_app_set_key(wish, sk);
	case MPTCP_LOWOVERHEAD:
		return dc_app_set_lowoverhead(wish, sk);
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * Process context. Without the module, which may go any moment, the answer would
 * be ENOPROTOOPT.
 */
int dc_app_setsockopt(struct sock *sk, int optname, sockptr_t optval, unsigned int optlen)
{
	struct dc_wish wish = {
		.optname = optname,
		.optval = optval,
		.optlen = optlen,
		.gfp = GFP_NOWAIT | __GFP_ACCOUNT,
	};
	struct dc_busy busy;
	int err;

	err = dc_wish_fulfil(&wish, sk);
	if (err != -DC_WOULD_SLEEP)
		return err;
	if (!dc_busy_begin(&busy))
		return -ENOPROTOOPT;
	wish.may_sleep = true;
	wish.gfp = GFP_KERNEL_ACCOUNT;
	err = dc_wish_fulfil(&wish, sk);
	dc_busy_end(&busy);
	return err;
}

/*
 * Whoever asked for external keys, and isn't connected yet, will neither connect
 * nor be connected with keys in clear when the module is gone: plain TCP is left.
 * Called when no socket gets an entry anymore. Sleeps.
 */
void dc_apps_settle(void)
{
	struct rhashtable_iter iter;
	struct dc_app *app;

	rhashtable_walk_enter(&dc_apps, &iter);
	rhashtable_walk_start(&iter);
	while ((app = rhashtable_walk_next(&iter))) {
		struct sock *sk, *ssk;

		/* -EAGAIN: the table grows, and some are seen twice. */
		if (IS_ERR(app) || !READ_ONCE(app->external))
			continue;
		sk = (struct sock *)app->sk;
		if (!refcount_inc_not_zero(&sk->sk_refcnt))
			continue;
		ssk = READ_ONCE(mptcp_sk(sk)->first);
		/* Else it is on its way, and dc_settle() has it. */
		if (ssk && dc_app_find(sk) == app &&
		    ((1 << inet_sk_state_load(sk)) & (TCPF_CLOSE | TCPF_LISTEN)))
			dc_subflow_disable(ssk);
		rhashtable_walk_stop(&iter);
		sock_put(sk);
		cond_resched();
		rhashtable_walk_start(&iter);
	}
	rhashtable_walk_stop(&iter);
	rhashtable_walk_exit(&iter);
}

int dc_apps_init(void)
{
	return rhashtable_init(&dc_apps, &dc_apps_params);
}

static void dc_app_free_now(void *ptr, void *arg)
{
	struct dc_app *app = ptr;

	dc_app_set_keys(app, NULL);
	dc_app_free(&app->rcu);
}

/* Wipes all keys. No hook stands anymore. Sleeps. */
void dc_apps_exit(void)
{
	rhashtable_free_and_destroy(&dc_apps, dc_app_free_now, NULL);
	/* For the callbacks that are the module's code. */
	rcu_barrier();
}
