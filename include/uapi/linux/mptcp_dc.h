/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Socket options of mptcp_dc, level SOL_MPTCP (284).
 *
 * Without the module each fails as any unknown option does: setsockopt() with
 * ENOPROTOOPT, getsockopt() with EOPNOTSUPP.
 */
#ifndef _UAPI_LINUX_MPTCP_DC_H
#define _UAPI_LINUX_MPTCP_DC_H

#include <linux/types.h>

#ifndef SOL_MPTCP
#define SOL_MPTCP	284
#endif

/* getsockopt() only: struct mptcp_dc_info. Any time, any MPTCP socket. */
#define MPTCP_DC_INFO	0xdc00

/*
 * setsockopt() only: int. 1: connect with external keys or as plain TCP, never
 * with keys in clear; a listener takes no other MPTCP either, and its children
 * are external. Before connect() or listen(). That holds when the module is
 * unloaded before: the socket is then one of plain TCP.
 * EISCONN: too late. EINVAL: neither 0 nor 1. EPERM: net.mptcp_dc.app_key is 0.
 */
#define MPTCP_ENABLE_APP_KEY	0xdc01

/*
 * setsockopt() only: the connection's key, MPTCP_KEY_MIN to MPTCP_KEY_MAX
 * bytes; both ends need the same. Once connected; again to replace it.
 * ENOTCONN: not connected (yet). EOPNOTSUPP: the peer refused, or this end
 * didn't ask. EINVAL: too short or too long.
 */
#define MPTCP_KEY		0xdc02
#define MPTCP_KEY_MIN		16
#define MPTCP_KEY_MAX		64

/*
 * setsockopt() only: int 0, 1 or 2, what net.mptcp_dc.lowoverhead is to be for
 * this socket. Before connect() or listen(). While the sysctl is 0, 0 is taken and
 * changes nothing.
 * EISCONN: too late. EINVAL: another value. EPERM: raised while the sysctl is 0.
 */
#define MPTCP_LOWOVERHEAD	0xdc03

/* mptcp_dc_info.mode */
#define MPTCP_DC_MODE_NONE		0	/* neither connected nor connecting */
#define MPTCP_DC_MODE_TCP		1	/* fell back to plain TCP */
#define MPTCP_DC_MODE_STANDARD		2	/* RFC 8684 */
#define MPTCP_DC_MODE_LOWOVERHEAD	3
#define MPTCP_DC_MODE_EXTERNALKEY	4

/* mptcp_dc_info.key_state */
#define MPTCP_DC_KEY_NONE		0	/* the mode has no external key */
#define MPTCP_DC_KEY_MISSING		1	/* MPTCP_KEY wasn't set yet: no subflows, no addresses */
#define MPTCP_DC_KEY_SET		2

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
