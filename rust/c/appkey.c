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
#include <linux/rculist.h>
#include <linux/sockptr.h>
#include <linux/workqueue.h>
#include "protocol.h"
#include "dc.h"
#include "../../include/uapi/linux/mptcp_dc.h"

#define DC_APP_BITS	10

/* The keys of a connection. Never changed: a new one replaces it. */
struct dc_app_keys {
	struct rcu_head		rcu;
	bool			replaced;	/* there is a previous one */
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
struct dc_app_joins {
	unsigned int	used;
	unsigned int	room;
	struct {
		u32	nonce;		/* 0: none */
		u32	epoch;		/* when it came */
	} last[] __counted_by(room);
};

/* Written with the socket's lock held, but for node and joins. */
struct dc_app {
	struct hlist_node	node;		/* guarded by dc_app_lock, read under RCU */
	struct rcu_head		rcu;
	const struct sock	*sk;
	bool			external;	/* MPTCP_ENABLE_APP_KEY */
	bool			holds_wire;	/* one of dc_wire_users */
	s8			lowoverhead;	/* MPTCP_LOWOVERHEAD; -1: the namespace's */
	u64			local_key;	/* of the connection that the keys are for */
	struct dc_app_keys __rcu	*keys;
	spinlock_t		joins_lock;
	struct dc_app_joins	*joins;		/* guarded by joins_lock; NULL: none came yet */
};

static struct hlist_head dc_apps[1 << DC_APP_BITS];
static DEFINE_SPINLOCK(dc_app_lock);	/* guards dc_apps and the next two */
static unsigned int dc_wire_users;	/* entries that need the hooks on every segment */
static bool dc_wire_held;		/* the hooks stand for them */

/*
 * Some socket has had an entry since the module was loaded. It never becomes
 * false again: connections may outlive all entries.
 */
bool dc_apps_used __read_mostly;

static struct hlist_head *dc_app_bucket(const struct sock *sk)
{
	return &dc_apps[hash_ptr(sk, DC_APP_BITS)];
}

/* Called under the RCU read lock. */
static struct dc_app *dc_app_find(const struct sock *sk)
{
	struct dc_app *app;

	hlist_for_each_entry_rcu(app, dc_app_bucket(sk), node)
		if (app->sk == sk)
			return app;
	return NULL;
}

/* Called with the socket's lock held. */
static struct dc_app *dc_app_get(struct sock *sk)
{
	struct dc_app *app;

	rcu_read_lock();
	app = dc_app_find(sk);
	rcu_read_unlock();
	if (app)
		return app; /* it lives as long as the socket */

	app = kzalloc_obj(*app, GFP_KERNEL_ACCOUNT);
	if (!app)
		return NULL;
	app->sk = sk;
	app->lowoverhead = -1;
	spin_lock_init(&app->joins_lock);
	spin_lock_bh(&dc_app_lock);
	hlist_add_head_rcu(&app->node, dc_app_bucket(sk));
	spin_unlock_bh(&dc_app_lock);
	WRITE_ONCE(dc_apps_used, true);
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

/* The hooks on every segment, for one socket more. Sleeps. */
static int dc_wire_get(void)
{
	int err = 0;

	spin_lock_bh(&dc_app_lock);
	if (dc_wire_held) {
		dc_wire_users++;
		spin_unlock_bh(&dc_app_lock);
		return 0;
	}
	spin_unlock_bh(&dc_app_lock);

	if (!dc_mode_lock_open())
		return -EOPNOTSUPP;
	if (!dc_wire_held)
		err = dc_external_changed(true);
	if (!err) {
		spin_lock_bh(&dc_app_lock);
		dc_wire_held = true;
		dc_wire_users++;
		spin_unlock_bh(&dc_app_lock);
	}
	dc_mode_unlock();
	return err;
}

/* Called with the lock of modes held. */
void dc_wire_release(bool even_if_used)
{
	bool release;

	spin_lock_bh(&dc_app_lock);
	release = dc_wire_held && (even_if_used || !dc_wire_users);
	if (release)
		dc_wire_held = false;
	spin_unlock_bh(&dc_app_lock);
	if (release)
		dc_external_changed(false);
}

static void dc_wire_work_fn(struct work_struct *work)
{
	if (!dc_mode_lock_open())
		return; /* dc_netns_close() does it */
	dc_wire_release(false);
	dc_mode_unlock();
}

static DECLARE_DELAYED_WORK(dc_wire_work, dc_wire_work_fn);

static void dc_wire_put(void)
{
	bool last;

	spin_lock_bh(&dc_app_lock);
	last = !--dc_wire_users;
	spin_unlock_bh(&dc_app_lock);
	/* A moment later: often one socket follows another. */
	if (last)
		schedule_delayed_work(&dc_wire_work, HZ);
}

/* Has this socket an entry? */
bool dc_app_exists(const struct sock *sk)
{
	bool exists;

	rcu_read_lock();
	exists = dc_app_find(sk);
	rcu_read_unlock();
	return exists;
}

/* The socket is being destroyed. */
void dc_app_forget(const struct sock *sk)
{
	struct dc_app *app;

	spin_lock_bh(&dc_app_lock);
	app = dc_app_find(sk);
	if (app)
		hlist_del_rcu(&app->node);
	spin_unlock_bh(&dc_app_lock);
	if (!app)
		return;
	dc_app_set_keys(app, NULL);
	if (app->holds_wire)
		dc_wire_put();
	call_rcu(&app->rcu, dc_app_free);
}

/*
 * How the MPTCP socket @sk is to connect, or to take connections. @lowoverhead
 * is the namespace's sysctl, and becomes the socket's value. True: with external
 * keys, or not at all.
 */
bool dc_app_mode(const struct sock *sk, u8 *lowoverhead)
{
	const struct dc_app *app;
	bool external = false;

	if (!READ_ONCE(dc_apps_used))
		return false;
	rcu_read_lock();
	app = dc_app_find(sk);
	if (app) {
		s8 own = READ_ONCE(app->lowoverhead);

		external = READ_ONCE(app->external);
		/* Without the namespace's consent there are no hooks on segments. */
		if (own >= 0 && *lowoverhead)
			*lowoverhead = own;
	}
	rcu_read_unlock();
	return external;
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
	has = keys && (!previous || keys->replaced);
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

/* Called with the entry's joins_lock held. */
static bool dc_app_note_join(struct dc_app *app, u32 nonce)
{
	struct dc_app_joins *joins = app->joins;
	unsigned int i, free = UINT_MAX;
	u32 now = dc_time_epoch();

	for (i = 0; joins && i < joins->used; i++) {
		if (joins->last[i].nonce == nonce)
			return false;
		if (!joins->last[i].nonce || now - joins->last[i].epoch > 1)
			free = i;
	}
	if (free == UINT_MAX) {
		if (!dc_app_joins_grow(app))
			return false;
		joins = app->joins;
		free = joins->used++;
	}
	joins->last[free].nonce = nonce;
	joins->last[free].epoch = now;
	return true;
}

/*
 * A join came whose ACK has the right HMAC, for our @nonce, which isn't 0. False:
 * it is an old one once more, or one of very many. Softirq.
 */
bool dc_app_join_came(const struct mptcp_sock *msk, u32 nonce)
{
	struct dc_app *app;
	bool is_new = false;

	rcu_read_lock();
	app = dc_app_find((const struct sock *)msk);
	if (app) {
		spin_lock_bh(&app->joins_lock);
		is_new = dc_app_note_join(app, nonce);
		spin_unlock_bh(&app->joins_lock);
	}
	rcu_read_unlock();
	return is_new;
}

/* The same made no subflow, and may come again. */
void dc_app_join_failed(const struct mptcp_sock *msk, u32 nonce)
{
	struct dc_app *app;
	unsigned int i;

	rcu_read_lock();
	app = dc_app_find((const struct sock *)msk);
	if (app) {
		spin_lock_bh(&app->joins_lock);
		for (i = 0; app->joins && i < app->joins->used; i++) {
			if (app->joins->last[i].nonce == nonce)
				app->joins->last[i].nonce = 0;
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

static int dc_app_int(sockptr_t optval, unsigned int optlen, int *value)
{
	if (optlen < sizeof(*value))
		return -EINVAL;
	return copy_from_sockptr(value, optval, sizeof(*value)) ? -EFAULT : 0;
}

/*
 * The entry of a socket that is neither connected, nor on the way, nor listening,
 * nor was connected before (it could only connect() after a disconnect); or an
 * error. Called with the socket's lock held.
 */
static struct dc_app *dc_app_get_fresh(struct sock *sk)
{
	struct dc_app *app;

	if (sk->sk_state != TCP_CLOSE || sk->sk_socket->state != SS_UNCONNECTED)
		return ERR_PTR(-EISCONN);
	app = dc_app_get(sk);
	return app ?: ERR_PTR(-ENOMEM);
}

static int dc_app_set_external(struct sock *sk, sockptr_t optval, unsigned int optlen)
{
	struct dc_app *app;
	bool wire = false;
	int value, err;

	err = dc_app_int(optval, optlen, &value);
	if (err)
		return err;
	if (value != 0 && value != 1)
		return -EINVAL;
	if (value) {
		if (!READ_ONCE(dc_netns_of(sock_net(sk))->app_key))
			return -EPERM;
		err = dc_wire_get();
		if (err)
			return err;
		wire = true;
	}

	lock_sock(sk);
	app = dc_app_get_fresh(sk);
	err = PTR_ERR_OR_ZERO(app);
	if (!err) {
		WRITE_ONCE(app->external, value);
		if (wire)
			swap(app->holds_wire, wire);
	}
	release_sock(sk);
	/* The socket had one already, or gets none. */
	if (wire)
		dc_wire_put();
	return err;
}

static int dc_app_set_lowoverhead(struct sock *sk, sockptr_t optval, unsigned int optlen)
{
	struct dc_app *app;
	int value, err;

	err = dc_app_int(optval, optlen, &value);
	if (err)
		return err;
	if (value < 0 || value > 2)
		return -EINVAL;
	if (value && !READ_ONCE(dc_netns_of(sock_net(sk))->lowoverhead))
		return -EPERM;

	lock_sock(sk);
	app = dc_app_get_fresh(sk);
	err = PTR_ERR_OR_ZERO(app);
	if (!err)
		WRITE_ONCE(app->lowoverhead, value);
	release_sock(sk);
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

/* Called with the socket's lock held. */
static int dc_app_replace_key(struct sock *sk, const u8 *key, size_t length, bool *wire)
{
	struct mptcp_sock *msk = mptcp_sk(sk);
	struct dc_app_keys *keys, *old;
	struct dc_app *app;
	int err;

	err = dc_app_takes_key(sk);
	if (err)
		return err;

	app = dc_app_get(sk);
	keys = app ? kzalloc_obj(*keys, GFP_KERNEL_ACCOUNT) : NULL;
	if (!keys)
		return -ENOMEM;
	hmac_sha256_preparekey(&keys->key, key, length);
	old = rcu_dereference_protected(app->keys, true);
	if (old && app->local_key == msk->local_key) {
		keys->replaced = true;
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

static int dc_app_set_key(struct sock *sk, sockptr_t optval, unsigned int optlen)
{
	u8 key[MPTCP_KEY_MAX];
	bool wire = true;
	int err;

	if (optlen < MPTCP_KEY_MIN || optlen > sizeof(key))
		return -EINVAL;
	/* First, because the hooks cost all sockets: who is refused doesn't get them. */
	lock_sock(sk);
	err = dc_app_takes_key(sk);
	release_sock(sk);
	if (err)
		return err;
	err = dc_wire_get();
	if (err)
		return err;
	if (copy_from_sockptr(key, optval, optlen)) {
		err = -EFAULT;
	} else {
		lock_sock(sk);
		err = dc_app_replace_key(sk, key, optlen, &wire);
		release_sock(sk);
	}
	memzero_explicit(key, sizeof(key));
	if (wire)
		dc_wire_put();
	return err;
}

int dc_app_setsockopt(struct sock *sk, int optname, sockptr_t optval, unsigned int optlen)
{
	switch (optname) {
	case MPTCP_ENABLE_APP_KEY:
		return dc_app_set_external(sk, optval, optlen);
	case MPTCP_KEY:
		return dc_app_set_key(sk, optval, optlen);
	case MPTCP_LOWOVERHEAD:
		return dc_app_set_lowoverhead(sk, optval, optlen);
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * The stock code knows no external keys, but would take joins under the key
 * fields, which anybody on the path has seen. With others nobody can join.
 */
static void dc_external_lock(struct mptcp_sock *msk)
{
	struct sock *sk = (struct sock *)msk;

	lock_sock(sk);
	if (dc_msk_is_external(msk)) {
		get_random_bytes(&msk->local_key, sizeof(msk->local_key));
		get_random_bytes(&msk->remote_key, sizeof(msk->remote_key));
	}
	release_sock(sk);
}

/* Before the hooks go. Sleeps. */
void dc_externals_lock(void)
{
	struct net *net;

	if (!READ_ONCE(dc_apps_used))
		return;
	down_read(&net_rwsem);
	for_each_net(net) {
		struct mptcp_sock *msk;
		long slot = 0, num = 0;

		while ((msk = mptcp_token_iter_next(net, &slot, &num))) {
			dc_external_lock(msk);
			sock_put((struct sock *)msk);
			cond_resched();
		}
	}
	up_read(&net_rwsem);
}

/* Wipes all keys. No hook stands anymore. Sleeps. */
void dc_apps_exit(void)
{
	struct hlist_node *next;
	struct dc_app *app;
	int i;

	cancel_delayed_work_sync(&dc_wire_work);
	for (i = 0; i < ARRAY_SIZE(dc_apps); i++) {
		hlist_for_each_entry_safe(app, next, &dc_apps[i], node) {
			hlist_del_rcu(&app->node);
			dc_app_set_keys(app, NULL);
			call_rcu(&app->rcu, dc_app_free);
		}
	}
	rcu_barrier();
}
