// SPDX-License-Identifier: GPL-2.0
/*
 * What the module keeps for every network namespace: the sysctls below
 * net.mptcp_dc and the counters in /proc/net/mptcp_dc.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/sysctl.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>
#include "protocol.h"
#include "mib.h"
#include "dc.h"

#define DC_NAME	"mptcp_dc"

unsigned int dc_netns_id __read_mostly;

struct dc_netns *dc_netns_of(const struct net *net)
{
	return net_generic(net, dc_netns_id);
}

struct net *dc_sock_net(const struct sock *sk)
{
	return sock_net(sk);
}

/* Does standard MPTCP take keys and nonces from a hash here? With softirqs disabled. */
bool dc_listener_derives(const struct sock *listener)
{
	return READ_ONCE(dc_netns_of_bh(sock_net(listener))->derived_nonces);
}

void dc_count(struct dc_netns *ns, enum dc_counter counter)
{
	dc_count_one(ns, counter);
}

/* A SYN with MP_CAPABLE of ours, in the stack's statistics, too. */
void dc_count_syn(const struct sock *listener, struct dc_netns *ns, enum dc_counter counter)
{
	MPTCP_INC_STATS(sock_net(listener), MPTCP_MIB_MPCAPABLEPASSIVE);
	dc_count_one(ns, counter);
}

/* No token was free, in the stack's statistics, too. */
void dc_count_fallback(struct dc_netns *ns, struct net *net)
{
	MPTCP_INC_STATS(net, MPTCP_MIB_TOKENFALLBACKINIT);
	dc_count(ns, DC_COUNT_TOKEN_FALLBACK);
}

static const char * const dc_counter_names[DC_COUNT_NR] = {
#define X(name, text) [DC_COUNT_##name] = text,
	DC_COUNTERS(X)
#undef X
};

/* One line a counter: its name, a blank, its value. */
static int dc_counters_show(struct seq_file *seq, void *v)
{
	struct dc_netns *ns = dc_netns_of(seq_file_single_net(seq));
	int cpu, i;

	for (i = 0; i < DC_COUNT_NR; i++) {
		u64 sum = 0;

		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu_ptr(ns->counters, cpu)->value[i]);
		seq_printf(seq, "%s %llu\n", dc_counter_names[i], sum);
	}
	return 0;
}

/* Guards writes to the switches in a dc_netns, and dc_closed. */
static DEFINE_MUTEX(dc_mode_lock);
static bool dc_closed = true;

/*
 * The hooks must stand before the first packet is handled by them, and go only
 * after the last, so a switch is not simply stored.
 */
static int dc_switch_handler(enum dc_switch which, const struct ctl_table *table, int write,
			     void *buffer, size_t *length, loff_t *pos)
{
	u8 *value = table->data;
	u8 was, is;
	struct ctl_table copy = *table;
	int err;

	mutex_lock(&dc_mode_lock);
	was = READ_ONCE(*value);
	is = was;
	copy.data = &is;
	err = proc_dou8vec_minmax(&copy, write, buffer, length, pos);
	if (err || !write || is == was)
		goto out;
	err = dc_closed ? -ENODEV : 0;
	if (!err && !was)
		err = dc_switched(which, true);
	if (err)
		goto out;
	WRITE_ONCE(*value, is);
	if (!is)
		dc_switched(which, false);
out:
	mutex_unlock(&dc_mode_lock);
	return err;
}

static int dc_lowoverhead_handler(const struct ctl_table *table, int write,
				  void *buffer, size_t *length, loff_t *pos)
{
	return dc_switch_handler(DC_SWITCH_LOWOVERHEAD, table, write, buffer, length, pos);
}

static int dc_stateless_handler(const struct ctl_table *table, int write,
				void *buffer, size_t *length, loff_t *pos)
{
	return dc_switch_handler(DC_SWITCH_STATELESS_JOIN, table, write, buffer, length, pos);
}

static const struct ctl_table dc_table_template[] = {
	{
		.procname	= "lowoverhead",
		.data		= (void *)offsetof(struct dc_netns, lowoverhead),
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= dc_lowoverhead_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_TWO,
	},
	{
		.procname	= "syn_token",
		.data		= (void *)offsetof(struct dc_netns, syn_token),
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= proc_dou8vec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "stateless_join",
		.data		= (void *)offsetof(struct dc_netns, stateless_join),
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= dc_stateless_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "derived_nonces",
		.data		= (void *)offsetof(struct dc_netns, derived_nonces),
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= proc_dou8vec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "app_key",
		.data		= (void *)offsetof(struct dc_netns, app_key),
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= proc_dou8vec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
};

/* Takes the lock of modes, unless the module is not open (anymore). Sleeps. */
bool dc_mode_lock_open(void)
{
	mutex_lock(&dc_mode_lock);
	if (!dc_closed)
		return true;
	mutex_unlock(&dc_mode_lock);
	return false;
}

void dc_mode_unlock(void)
{
	mutex_unlock(&dc_mode_lock);
}

/* Called with dc_mode_lock held. Was it on? */
static bool dc_switch_clear(u8 *value)
{
	bool was = *value;

	WRITE_ONCE(*value, 0);
	return was;
}

/* Lets sysctls be set: the hooks are there. */
void dc_netns_open(void)
{
	mutex_lock(&dc_mode_lock);
	dc_closed = false;
	mutex_unlock(&dc_mode_lock);
}

/* Turns every switch of every namespace off, for good. */
void dc_netns_close(void)
{
	unsigned int lowoverhead = 0, stateless_join = 0;
	struct net *net;

	mutex_lock(&dc_mode_lock);
	dc_closed = true;
	down_read(&net_rwsem);
	for_each_net(net) {
		stateless_join += dc_switch_clear(&dc_netns_of(net)->stateless_join);
		lowoverhead += dc_switch_clear(&dc_netns_of(net)->lowoverhead);
	}
	up_read(&net_rwsem);
	while (stateless_join--)
		dc_switched(DC_SWITCH_STATELESS_JOIN, false);
	while (lowoverhead--)
		dc_switched(DC_SWITCH_LOWOVERHEAD, false);
	dc_wire_release(true);
	mutex_unlock(&dc_mode_lock);
}

static int __net_init dc_netns_start(struct net *net)
{
	struct dc_netns *ns = dc_netns_of(net);
	int i;

	ns->cookie = net->net_cookie;
	ns->app_key = 1;
	ns->counters = alloc_percpu(struct dc_counters);
	if (!ns->counters)
		return -ENOMEM;

	ns->table = kmemdup(dc_table_template, sizeof(dc_table_template), GFP_KERNEL);
	if (!ns->table)
		goto free_counters;
	for (i = 0; i < ARRAY_SIZE(dc_table_template); i++)
		ns->table[i].data = (void *)ns + (unsigned long)ns->table[i].data;
	ns->sysctl = register_net_sysctl_sz(net, "net/" DC_NAME, ns->table,
					    ARRAY_SIZE(dc_table_template));
	if (!ns->sysctl)
		goto free_table;

	if (!proc_create_net_single(DC_NAME, 0444, net->proc_net, dc_counters_show, NULL))
		goto free_sysctl;
	return 0;

free_sysctl:
	unregister_net_sysctl_table(ns->sysctl);
free_table:
	kfree(ns->table);
free_counters:
	free_percpu(ns->counters);
	return -ENOMEM;
}

static void __net_exit dc_netns_stop(struct net *net)
{
	struct dc_netns *ns = dc_netns_of(net);

	remove_proc_entry(DC_NAME, net->proc_net);
	unregister_net_sysctl_table(ns->sysctl);
	kfree(ns->table);
	mutex_lock(&dc_mode_lock);
	if (dc_switch_clear(&ns->stateless_join))
		dc_switched(DC_SWITCH_STATELESS_JOIN, false);
	if (dc_switch_clear(&ns->lowoverhead))
		dc_switched(DC_SWITCH_LOWOVERHEAD, false);
	mutex_unlock(&dc_mode_lock);
	free_percpu(ns->counters);
}

static struct pernet_operations dc_netns_ops = {
	.init	= dc_netns_start,
	.exit	= dc_netns_stop,
	.id	= &dc_netns_id,
	.size	= sizeof(struct dc_netns),
};

int dc_netns_init(void)
{
	return register_pernet_subsys(&dc_netns_ops);
}

void dc_netns_exit(void)
{
	unregister_pernet_subsys(&dc_netns_ops);
}
