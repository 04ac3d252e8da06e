// SPDX-License-Identifier: GPL-2.0
/*
 * What the module keeps for every network namespace: the sysctls below
 * net.mptcp_dc and the counters in /proc/net/mptcp_dc.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/sysctl.h>
#include <linux/uaccess.h>
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
	struct dc_netns *ns = dc_netns_of(seq->private);
	int cpu, i;

	for (i = 0; i < DC_COUNT_NR; i++) {
		u64 sum = 0;

		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu_ptr(ns->counters, cpu)->value[i]);
		seq_printf(seq, "%s %llu\n", dc_counter_names[i], sum);
	}
	return 0;
}

static int dc_counters_open(struct inode *inode, struct file *file)
{
	return single_open(file, dc_counters_show, pde_data(inode));
}

/*
 * Whoever removes the file waits for those who are in here. They may be for as
 * long as the page into which they read takes to come, so then they hold what
 * would be removed: the namespace and the module.
 */
static ssize_t dc_counters_read(struct kiocb *iocb, struct iov_iter *to)
{
	const struct seq_file *seq = iocb->ki_filp->private_data;
	struct net *net = seq->private;
	struct dc_busy busy;
	ssize_t ret;

	pagefault_disable();
	ret = seq_read_iter(iocb, to);
	pagefault_enable();
	if (ret != -EFAULT)
		return ret;

	if (!dc_busy_begin(&busy))
		return -EIO;
	ret = -EIO;
	if (maybe_get_net(net)) {
		ret = seq_read_iter(iocb, to);
		put_net(net);
	}
	dc_busy_end(&busy);
	return ret;
}

static const struct proc_ops dc_counters_ops = {
	.proc_open	= dc_counters_open,
	.proc_read_iter	= dc_counters_read,
	.proc_lseek	= seq_lseek,
	.proc_release	= single_release,
};

/* Tasks that wait in code of the module; each holds a reference to it. */
static LIST_HEAD(dc_busy_list);
static DEFINE_SPINLOCK(dc_busy_lock);

/*
 * To be called before a task may wait for a page or a socket. False: the module
 * is being unloaded, and the task must leave.
 */
bool dc_busy_begin(struct dc_busy *busy)
{
	if (!try_module_get(THIS_MODULE))
		return false;
	busy->pid = task_pid_nr(current);
	get_task_comm(busy->comm, current);
	spin_lock(&dc_busy_lock);
	list_add_tail(&busy->node, &dc_busy_list);
	spin_unlock(&dc_busy_lock);
	return true;
}

void dc_busy_end(struct dc_busy *busy)
{
	spin_lock(&dc_busy_lock);
	list_del(&busy->node);
	spin_unlock(&dc_busy_lock);
	module_put(THIS_MODULE);
}

/* How many tasks are in a sysctl's handler of ours. None waits there for a user. */
static atomic_t dc_handling = ATOMIC_INIT(0);

/* net.mptcp_dc.busy: because of whom the module can't be unloaded. */
static int dc_busy_handler(const struct ctl_table *table, int write,
			   void *buffer, size_t *length, loff_t *pos)
{
	const size_t room = PAGE_SIZE;
	struct ctl_table copy = *table;
	const struct dc_busy *busy;
	size_t used = 0;
	char *text;
	int err;

	atomic_inc(&dc_handling);
	err = -ENOMEM;
	text = kzalloc(room, GFP_KERNEL);
	if (!text)
		goto out;
	spin_lock(&dc_busy_lock);
	list_for_each_entry(busy, &dc_busy_list, node)
		/* Who names himself "a\\n1 b" stays on one line. */
		used += scnprintf(text + used, room - used, "%s%d %*pE", used ? "\n" : "",
				  busy->pid, (int)strlen(busy->comm), busy->comm);
	spin_unlock(&dc_busy_lock);
	copy.data = text;
	copy.maxlen = room;
	err = proc_dostring(&copy, write, buffer, length, pos);
	kfree(text);
out:
	atomic_dec(&dc_handling);
	return err;
}

/* net.mptcp_dc.user_namespaces */
static u8 dc_user_namespaces __read_mostly;

/*
 * May the calling task switch on what costs others, too: hooks that all segments,
 * or all SYNs, of the host pass? The owner of a network namespace may only if
 * root says so: anybody can become that.
 */
static bool dc_may_raise(void)
{
	return READ_ONCE(dc_user_namespaces) || capable(CAP_NET_ADMIN);
}

static int dc_u8_store(const struct ctl_table *table, int write, void *buffer, size_t *length,
		       loff_t *pos, enum dc_switch which)
{
	struct ctl_table copy = *table;
	u8 *value = table->data;
	u8 is = READ_ONCE(*value);
	int err;

	copy.data = &is;
	err = proc_dou8vec_minmax(&copy, write, buffer, length, pos);
	if (err || !write)
		return err;
	if (is > READ_ONCE(*value) && !dc_may_raise())
		return -EPERM;
	if (which != DC_SWITCH_NONE)
		return dc_switch_store(which, value, is);
	WRITE_ONCE(*value, is);
	return 0;
}

/* Writes a sysctl of u8 that may cost others: by hooks that it switches, or by sockets that may then. */
static int dc_u8_handler(const struct ctl_table *table, int write, void *buffer, size_t *length,
			 loff_t *pos, enum dc_switch which)
{
	int err;

	atomic_inc(&dc_handling);
	err = dc_u8_store(table, write, buffer, length, pos, which);
	atomic_dec(&dc_handling);
	return err;
}

static int dc_lowoverhead_handler(const struct ctl_table *table, int write,
				  void *buffer, size_t *length, loff_t *pos)
{
	return dc_u8_handler(table, write, buffer, length, pos, DC_SWITCH_LOWOVERHEAD);
}

static int dc_stateless_handler(const struct ctl_table *table, int write,
				void *buffer, size_t *length, loff_t *pos)
{
	return dc_u8_handler(table, write, buffer, length, pos, DC_SWITCH_STATELESS_JOIN);
}

static int dc_app_key_handler(const struct ctl_table *table, int write,
			      void *buffer, size_t *length, loff_t *pos)
{
	return dc_u8_handler(table, write, buffer, length, pos, DC_SWITCH_NONE);
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
		.proc_handler	= dc_app_key_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	/* In the initial namespace only, last: DC_TABLE_HOST of them. */
	{
		.procname	= "user_namespaces",
		.data		= &dc_user_namespaces,
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= proc_dou8vec_minmax,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "busy",
		.maxlen		= 1,
		.mode		= 0400,
		.proc_handler	= dc_busy_handler,
	},
};

#define DC_TABLE_HOST	2

#define DC_TABLE_NAME	16	/* the longest name, with its nought */

/* The sysctls of a network namespace. Nothing in here is the module's own memory but the handlers. */
struct dc_sysctls {
	struct ctl_table		table[ARRAY_SIZE(dc_table_template)];
	char				names[ARRAY_SIZE(dc_table_template)][DC_TABLE_NAME];
	u8				nothing;	/* what they name when the module has left */
	struct ctl_table_header		*header;
	struct list_head		node;		/* in dc_sysctls_all */
	struct net			*net;		/* held, once the module leaves */
	struct task_struct		*thread;	/* that unregisters them */
};

static DEFINE_MUTEX(dc_sysctls_lock);	/* guards the next two */
static LIST_HEAD(dc_sysctls_all);
static bool dc_leaving;			/* the module is being unloaded: there will be no more */

/* Called with dc_sysctls_lock held. */
static struct dc_sysctls *dc_sysctls_register(struct net *net, struct dc_netns *ns)
{
	struct dc_sysctls *sysctls = kzalloc_obj(*sysctls);
	int i, count = ARRAY_SIZE(sysctls->table);

	if (!sysctls)
		return NULL;
	for (i = 0; i < count; i++) {
		sysctls->table[i] = dc_table_template[i];
		strscpy(sysctls->names[i], dc_table_template[i].procname);
		sysctls->table[i].procname = sysctls->names[i];
		if (i < count - DC_TABLE_HOST)
			sysctls->table[i].data += (unsigned long)ns;
	}
	if (!net_eq(net, &init_net))
		count -= DC_TABLE_HOST;
	sysctls->header = register_net_sysctl_sz(net, "net/" DC_NAME, sysctls->table, count);
	if (!sysctls->header) {
		kfree(sysctls);
		return NULL;
	}
	list_add_tail(&sysctls->node, &dc_sysctls_all);
	return sysctls;
}

static struct dc_sysctls *dc_sysctls_new(struct net *net, struct dc_netns *ns)
{
	struct dc_sysctls *sysctls;

	mutex_lock(&dc_sysctls_lock);
	sysctls = dc_leaving ? NULL : dc_sysctls_register(net, ns);
	mutex_unlock(&dc_sysctls_lock);
	return sysctls;
}

static void dc_sysctls_free(struct dc_sysctls *sysctls)
{
	mutex_lock(&dc_sysctls_lock);
	list_del(&sysctls->node);
	mutex_unlock(&dc_sysctls_lock);
	unregister_net_sysctl_table(sysctls->header);
	kfree(sysctls);
}

/*
 * A task that reads or writes a sysctl keeps it registered, for as long as the
 * page takes to come that it gave for the value; it calls the handler before or
 * after. Whoever unregisters waits for it. So when the module goes, its sysctls
 * first become the kernel's own, with a value that is nobody's; then a thread that
 * runs no code of the module unregisters them. They stay behind, with their
 * namespace, if they must.
 */
static void dc_sysctls_disown(struct dc_sysctls *sysctls)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(sysctls->table); i++) {
		WRITE_ONCE(sysctls->table[i].data, &sysctls->nothing);
		WRITE_ONCE(sysctls->table[i].maxlen, sizeof(sysctls->nothing));
		WRITE_ONCE(sysctls->table[i].proc_handler, proc_dou8vec_minmax);
	}
}

/*
 * No handler of ours is called anymore, nor one with a value of ours, and none that
 * was is running. Sleeps.
 */
static void dc_sysctls_disown_all(void)
{
	struct dc_sysctls *sysctls;

	mutex_lock(&dc_sysctls_lock);
	dc_leaving = true;
	list_for_each_entry(sysctls, &dc_sysctls_all, node)
		dc_sysctls_disown(sysctls);
	mutex_unlock(&dc_sysctls_lock);
	/* Whoever has read the address of a handler has entered it, and the kernel's own doesn't sleep. */
	dc_wait_for_tasks();
	while (atomic_read(&dc_handling))
		msleep(20);
	dc_wait_for_tasks();
}

/* The namespace does without from now on. */
static void dc_sysctls_stop(struct net *net, struct dc_sysctls *sysctls)
{
	if (!sysctls)
		return;
	/* One that is being deleted would wait for such tasks itself. */
	if (READ_ONCE(dc_leaving))
		sysctls->net = maybe_get_net(net);
	if (!sysctls->net)
		dc_sysctls_free(sysctls);
}

/* In a work item, because a task that is to be killed can't make threads, and rmmod may be one. */
static void dc_leave_fn(struct work_struct *work)
{
	int (*unregister)(void *header) = (void *)unregister_net_sysctl_table;
	struct dc_sysctls *sysctls;

	list_for_each_entry(sysctls, &dc_sysctls_all, node) {
		struct task_struct *thread;

		thread = kthread_create(unregister, sysctls->header, DC_NAME);
		if (IS_ERR(thread))
			continue;
		sysctls->thread = get_task_struct(thread);
		wake_up_process(thread);
	}
}

static DECLARE_WORK(dc_leave_work, dc_leave_fn);

static void dc_sysctls_exit(void)
{
	unsigned long patience = jiffies + HZ;
	struct dc_sysctls *sysctls, *next;
	unsigned int behind = 0;

	schedule_work(&dc_leave_work);
	flush_work(&dc_leave_work);
	list_for_each_entry_safe(sysctls, next, &dc_sysctls_all, node) {
		struct task_struct *thread = sysctls->thread;

		/* Without memory for a thread there is nobody else to wait. */
		if (!thread) {
			put_net(sysctls->net);
			dc_sysctls_free(sysctls);
			continue;
		}
		while (!READ_ONCE(thread->exit_state) && time_before(jiffies, patience))
			usleep_range(100, 200);
		if (READ_ONCE(thread->exit_state)) {
			put_net(sysctls->net);
			kfree(sysctls);
		} else {
			behind++;
		}
		put_task_struct(thread);
	}
	if (behind)
		pr_warn("tasks keep sysctls of net.mptcp_dc in use: those of %u network namespaces stay behind\n",
			behind);
}

/* Clears the switches of every namespace. Called when none can be set. */
void dc_netns_clear(void)
{
	struct net *net;

	down_read(&net_rwsem);
	for_each_net(net) {
		WRITE_ONCE(dc_netns_of(net)->stateless_join, 0);
		WRITE_ONCE(dc_netns_of(net)->lowoverhead, 0);
	}
	up_read(&net_rwsem);
}

static int __net_init dc_netns_start(struct net *net)
{
	struct dc_netns *ns = dc_netns_of(net);

	ns->cookie = net->net_cookie;
	/* Sockets with external keys cost others: see dc_may_raise(). */
	ns->app_key = net->user_ns == &init_user_ns;
	ns->counters = alloc_percpu(struct dc_counters);
	if (!ns->counters)
		return -ENOMEM;

	/*
	 * A user may keep those of an earlier load: dc_sysctls_exit(). A namespace of his
	 * does without then; those of the host must be there.
	 */
	ns->sysctls = dc_sysctls_new(net, ns);
	if (!ns->sysctls && net_eq(net, &init_net)) {
		pr_err("net.mptcp_dc can't be registered: no memory, or a process still uses it from before; \"lsof +D /proc/sys/net/mptcp_dc\" names it, and when it is gone, load again\n");
		free_percpu(ns->counters);
		return -EBUSY;
	}

	if (!proc_create_data(DC_NAME, 0444, net->proc_net, &dc_counters_ops, net))
		goto free_sysctls;
	return 0;

free_sysctls:
	if (ns->sysctls)
		dc_sysctls_free(ns->sysctls);
	free_percpu(ns->counters);
	return -ENOMEM;
}

static void __net_exit dc_netns_stop(struct net *net)
{
	struct dc_netns *ns = dc_netns_of(net);

	remove_proc_entry(DC_NAME, net->proc_net);
	dc_sysctls_stop(net, ns->sysctls);
	dc_switch_store(DC_SWITCH_STATELESS_JOIN, &ns->stateless_join, 0);
	dc_switch_store(DC_SWITCH_LOWOVERHEAD, &ns->lowoverhead, 0);
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
	dc_sysctls_disown_all();
	unregister_pernet_subsys(&dc_netns_ops);
	dc_sysctls_exit();
}
