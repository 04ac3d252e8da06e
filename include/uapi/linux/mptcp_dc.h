/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Socket options of mptcp_dc, level SOL_MPTCP (284).
 *
 * Without the module each fails as any unknown option does: EOPNOTSUPP.
 */
#ifndef _UAPI_LINUX_MPTCP_DC_H
#define _UAPI_LINUX_MPTCP_DC_H

#include <linux/types.h>

#ifndef SOL_MPTCP
#define SOL_MPTCP	284
#endif

/* getsockopt() only: struct mptcp_dc_info. Any time, any MPTCP socket. */
#define MPTCP_DC_INFO	0xdc00

/* mptcp_dc_info.mode */
#define MPTCP_DC_MODE_NONE		0	/* neither connected nor connecting */
#define MPTCP_DC_MODE_TCP		1	/* fell back to plain TCP */
#define MPTCP_DC_MODE_STANDARD		2	/* RFC 8684 */
#define MPTCP_DC_MODE_LOWOVERHEAD	3
#define MPTCP_DC_MODE_EXTERNALKEY	4

/* mptcp_dc_info.key_state */
#define MPTCP_DC_KEY_NONE		0	/* the mode has no external key */

/*
 * Host byte order. The kernel writes as much as the caller has room for, at
 * most its own size, and returns that in optlen; later versions only append.
 */
struct mptcp_dc_info {
	__u32	mode;		/* MPTCP_DC_MODE_* */
	__u32	key_state;	/* MPTCP_DC_KEY_* */
	__u32	local_token;	/* 0: none (yet) */
	__u32	remote_token;	/* 0: not known, or the mode is standard */
	__u64	local_idsn;	/* initial data sequence number; 0: none (yet) */
	__u64	remote_idsn;	/* 0: not known, or the mode is standard */
	__u32	subflows;	/* subflows beside the first */
	__u32	reserved;	/* 0 */
};

#endif /* _UAPI_LINUX_MPTCP_DC_H */
