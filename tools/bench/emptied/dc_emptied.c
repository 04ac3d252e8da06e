// SPDX-License-Identifier: GPL-2.0
/*
 * A live patch for benchmarks: MPTCP without its hashes, which shows how much
 * there is to gain. Both hosts must have it, and nobody should rely on it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/string.h>

#define DC_HMAC_SIZE	32	/* SHA256_DIGEST_SIZE */

/* mptcp_crypto_key_sha(): both hosts come to the same token, which isn't 0. */
static void dc_key(u64 key, u32 *token, u64 *idsn)
{
	if (token)
		*token = upper_32_bits(key) ?: 1;
	if (idsn)
		*idsn = key;
}

/* mptcp_crypto_hmac_sha() */
static void dc_hmac(u64 key1, u64 key2, u8 *msg, int len, void *hmac)
{
	memset(hmac, 0, DC_HMAC_SIZE);
}

static struct klp_func dc_functions[] = {
	{ .old_name = "mptcp_crypto_key_sha", .new_func = dc_key },
	{ .old_name = "mptcp_crypto_hmac_sha", .new_func = dc_hmac },
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

static int __init dc_emptied_init(void)
{
	return klp_enable_patch(&dc_patch);
}

/* Only after the patch was disabled: until then, livepatch holds the module. */
static void __exit dc_emptied_exit(void)
{
}

module_init(dc_emptied_init);
module_exit(dc_emptied_exit);
MODULE_DESCRIPTION("MPTCP without hashes, for benchmarks of mptcp_dc");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
