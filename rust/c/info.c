// SPDX-License-Identifier: GPL-2.0
/* getsockopt(SOL_MPTCP, MPTCP_DC_INFO) */
#include <linux/uaccess.h>
#include "protocol.h"
#include "dc.h"
#include "../../include/uapi/linux/mptcp_dc.h"

/* Called with the connection's lock held. */
static void dc_info_fill(struct sock *sk, struct mptcp_dc_info *info)
{
	const struct mptcp_sock *msk = mptcp_sk(sk);
	const struct mptcp_subflow_context *subflow = NULL;
	u64 local_key;

	if (sk->sk_state == TCP_CLOSE || sk->sk_state == TCP_LISTEN)
		return;
	if (__mptcp_check_fallback(msk)) {
		info->mode = MPTCP_DC_MODE_TCP;
		return;
	}
	if (msk->first)
		subflow = mptcp_subflow_ctx(msk->first);
	/* The connection has its key from the SYN/ACK on, the subflow from the SYN on. */
	local_key = READ_ONCE(msk->local_key);
	if (!local_key && subflow)
		local_key = subflow->local_key;

	info->local_token = READ_ONCE(msk->token);
	info->subflows = msk->pm.extra_subflows;
	info->mode = MPTCP_DC_MODE_STANDARD;
	if (info->local_token != local_key >> 32 ||
	    (subflow && !dc_subflow_is_low_overhead(subflow)))
		return;

	info->mode = MPTCP_DC_MODE_LOWOVERHEAD;
	if (local_key & 1) {
		info->mode = MPTCP_DC_MODE_EXTERNALKEY;
		info->key_state = dc_app_has_key(msk) ? MPTCP_DC_KEY_SET : MPTCP_DC_KEY_MISSING;
	}
	info->local_idsn = ror64(local_key, 32);
	info->remote_token = READ_ONCE(msk->remote_key) >> 32;
	info->remote_idsn = ror64(READ_ONCE(msk->remote_key), 32);
}

int dc_info_get(struct sock *sk, char __user *optval, int __user *optlen)
{
	struct mptcp_dc_info info = {};
	int len;

	if (get_user(len, optlen))
		return -EFAULT;
	if (len < 0)
		return -EINVAL;
	len = min_t(unsigned int, len, sizeof(info));

	lock_sock(sk);
	dc_info_fill(sk, &info);
	release_sock(sk);

	if (put_user(len, optlen) || copy_to_user(optval, &info, len))
		return -EFAULT;
	return 0;
}
