// SPDX-License-Identifier: GPL-2.0
/* getsockopt(SOL_MPTCP, MPTCP_DC_INFO) */
#include <linux/uaccess.h>
#include "protocol.h"
#include "dc.h"
#include "../../include/uapi/linux/mptcp_dc.h"

/* Needs no lock: each value is read once, and what doesn't fit together is a moment old. */
static void dc_info_fill(const struct sock *sk, struct mptcp_dc_info *info)
{
	const struct mptcp_sock *msk = mptcp_sk(sk);
	const struct mptcp_subflow_context *subflow;
	int state = inet_sk_state_load(sk);
	const struct sock *first;
	u64 local_key, remote_key;
	bool ours;

	if (state == TCP_CLOSE || state == TCP_LISTEN)
		return;
	if (__mptcp_check_fallback(msk)) {
		info->mode = MPTCP_DC_MODE_TCP;
		return;
	}
	rcu_read_lock();
	first = READ_ONCE(msk->first);
	subflow = first ? mptcp_subflow_ctx(first) : NULL;
	/* The connection has its key from the SYN/ACK on, the subflow from the SYN on, until it is closed. */
	local_key = READ_ONCE(msk->local_key);
	if (local_key) {
		ours = dc_msk_is_low_overhead(msk);
	} else {
		local_key = subflow ? READ_ONCE(subflow->local_key) : 0;
		ours = subflow && dc_subflow_is_low_overhead(subflow);
	}
	rcu_read_unlock();

	info->local_token = READ_ONCE(msk->token);
	info->subflows = READ_ONCE(msk->pm.extra_subflows);
	info->mode = MPTCP_DC_MODE_STANDARD;
	if (!ours)
		return;

	info->mode = MPTCP_DC_MODE_LOWOVERHEAD;
	if (local_key & 1) {
		info->mode = MPTCP_DC_MODE_EXTERNALKEY;
		info->key_state = dc_app_has_key(msk) ? MPTCP_DC_KEY_SET : MPTCP_DC_KEY_MISSING;
	}
	remote_key = READ_ONCE(msk->remote_key);
	info->local_idsn = ror64(local_key, 32);
	info->remote_token = remote_key >> 32;
	info->remote_idsn = ror64(remote_key, 32);
}

/* Process context. As with setsockopt(): at first without waiting for a page. */
int dc_info_get(struct sock *sk, char __user *optval, int __user *optlen)
{
	struct mptcp_dc_info info = {};
	struct dc_busy busy;
	int len, err;

	dc_info_fill(sk, &info);
	if (!copy_from_user_nofault(&len, optlen, sizeof(len))) {
		if (len < 0)
			return -EINVAL;
		len = min_t(unsigned int, len, sizeof(info));
		if (!copy_to_user_nofault(optval, &info, len) &&
		    !copy_to_user_nofault(optlen, &len, sizeof(len)))
			return 0;
	}

	if (!dc_busy_begin(&busy))
		return -EOPNOTSUPP;
	err = 0;
	if (get_user(len, optlen))
		err = -EFAULT;
	else if (len < 0)
		err = -EINVAL;
	if (!err) {
		len = min_t(unsigned int, len, sizeof(info));
		if (put_user(len, optlen) || copy_to_user(optval, &info, len))
			err = -EFAULT;
	}
	dc_busy_end(&busy);
	return err;
}
