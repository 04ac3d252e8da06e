// SPDX-License-Identifier: GPL-2.0
/*
 * A live patch for tests: `function=NAME` names the one function that it
 * replaces. No connection that needs the function may be made meanwhile.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/livepatch.h>
#include <linux/module.h>

static char *function;
module_param(function, charp, 0444);
MODULE_PARM_DESC(function, "the function of the kernel to replace");

/* Does nothing and returns 0, false or NULL, whatever it stands for. */
static long dc_nothing(void)
{
	return 0;
}

static struct klp_func dc_functions[] = {
	{ .new_func = dc_nothing },
	{ }
};

static struct klp_object dc_objects[] = {
	{ .funcs = dc_functions },
	{ }
};

static struct klp_patch dc_patch = {
	.mod = THIS_MODULE,
	.objs = dc_objects,
};

static int __init dc_livepatch_init(void)
{
	dc_functions[0].old_name = function;
	return klp_enable_patch(&dc_patch);
}

/* Only after the patch was disabled: until then, livepatch holds the module. */
static void __exit dc_livepatch_exit(void)
{
}

module_init(dc_livepatch_init);
module_exit(dc_livepatch_exit);
MODULE_DESCRIPTION("A live patch of one function, for tests of mptcp_dc");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
