// SPDX-License-Identifier: GPL-2.0
/*
 * Is this the kernel that the module was built for?
 *
 * The module knows the layout of structures that no header promises. The
 * running kernel tells its own in its BTF. A module that fits it nowhere less
 * than everywhere is refused.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/btf.h>
#include <linux/bpf.h>
#include "protocol.h"
#include "dc.h"

struct dc_field {
	const char	*type;
	const char	*name;
	u32		type_size;	/* bytes */
	u32		offset;		/* bits */
};

#define DC_SIZE(type)	(sizeof(struct type))

static const struct dc_field dc_fields[] = {
#define X(t, f) { #t, #f, DC_SIZE(t), 8 * offsetof(struct t, f) },
	DC_FIELDS(X)
#undef X
#define X(t, f, own) { #t, #f, DC_SIZE(own), 8 * offsetof(struct own, f) },
	DC_C_FIELDS(X)
#undef X
};

/*
 * C has no offsetof() for bit fields: set the field in an empty structure and
 * see which bit it was.
 */
#define X(t, f)								\
static u32 dc_bit_##t##_##f(void)					\
{									\
	static union {							\
		struct t	object;					\
		unsigned long	bits[BITS_TO_LONGS(8 * sizeof(struct t))]; \
	} probe;							\
									\
	probe.object.f = 1;						\
	return find_first_bit(probe.bits, 8 * sizeof(struct t));	\
}
DC_BITS(X)
#undef X

static const struct btf_type *dc_strip(const struct btf *btf, u32 id)
{
	const struct btf_type *type = btf_type_by_id(btf, id);

	/* names of types, and qualifiers */
	while (type && (BTF_INFO_KIND(type->info) == BTF_KIND_TYPEDEF ||
			BTF_INFO_KIND(type->info) == BTF_KIND_VOLATILE ||
			BTF_INFO_KIND(type->info) == BTF_KIND_CONST))
		type = btf_type_by_id(btf, type->type);
	return type;
}

/*
 * The bit offset of @name in @type, also within members without a name (at most
 * @depth deep); U32_MAX if there is none.
 */
static u32 dc_find(const struct btf *btf, const struct btf_type *type, const char *name, int depth)
{
	const struct btf_member *member = (const struct btf_member *)(type + 1);
	int i, n = BTF_INFO_VLEN(type->info);
	bool packed = BTF_INFO_KFLAG(type->info);

	for (i = 0; i < n; i++, member++) {
		u32 at = packed ? BTF_MEMBER_BIT_OFFSET(member->offset) : member->offset;
		const char *its_name = dc_btf_name(btf, member->name_off);
		const struct btf_type *inner;
		u32 found;

		if (its_name && *its_name) {
			if (!strcmp(its_name, name))
				return at;
			continue;
		}
		inner = dc_strip(btf, member->type);
		if (!inner || !depth || !btf_type_is_struct(inner))
			continue;
		found = dc_find(btf, inner, name, depth - 1);
		if (found != U32_MAX)
			return at + found;
	}
	return U32_MAX;
}

/* The first member of @type that ends behind @size bytes. */
static const char *dc_beyond(const struct btf *btf, const struct btf_type *type, u32 size)
{
	const struct btf_member *member = (const struct btf_member *)(type + 1);
	int i, n = BTF_INFO_VLEN(type->info);
	const char *last = "?";

	for (i = 0; i < n; i++, member++) {
		u32 at = BTF_INFO_KFLAG(type->info) ? BTF_MEMBER_BIT_OFFSET(member->offset) :
						      member->offset;

		last = dc_btf_name(btf, member->name_off);
		if (at >= 8 * size)
			break;
	}
	return last && *last ? last : "(no name)";
}

/* The structure last looked up: the tables above name each many times on end. */
struct dc_found {
	const char		*name;
	struct btf		*btf;
	const struct btf_type	*type;
};

static void dc_forget(struct dc_found *found)
{
	if (found->btf)
		dc_btf_release(found->btf);
	memset(found, 0, sizeof(*found));
}

static bool dc_lookup(struct dc_found *found, const char *name)
{
	s32 id;

	if (found->name && !strcmp(found->name, name))
		return true;
	dc_forget(found);
	id = bpf_find_btf_id(name, BTF_KIND_STRUCT, &found->btf);
	if (id < 0) {
		pr_err("this kernel's BTF has no struct %s (%d)\n", name, id);
		return false;
	}
	found->name = name;
	found->type = btf_type_by_id(found->btf, id);
	return true;
}

static bool dc_field_fits(struct dc_found *found, const char *type, const char *name, u32 offset)
{
	u32 at;

	if (!dc_lookup(found, type))
		return false;
	at = dc_find(found->btf, found->type, name, 8);
	if (at == U32_MAX)
		pr_err("this kernel's struct %s has no field %s\n", type, name);
	else if (at != offset)
		pr_err("struct %s: field %s is at bit %u in this kernel, at bit %u in the one that the module was built for\n",
		       type, name, at, offset);
	else
		return true;
	return false;
}

static bool dc_size_fits(struct dc_found *found, const char *type, u32 size)
{
	if (!dc_lookup(found, type))
		return false;
	if (found->type->size == size)
		return true;
	pr_err("struct %s has %u bytes in this kernel, %u in the one that the module was built for; see field %s\n",
	       type, found->type->size, size, dc_beyond(found->btf, found->type, size));
	return false;
}

/* Sizes come last: the field that moved says more. */
int dc_layout_check(void)
{
	struct dc_found found = {};
	bool fits = true;
	int i;

	for (i = 0; fits && i < ARRAY_SIZE(dc_fields); i++)
		fits = dc_field_fits(&found, dc_fields[i].type, dc_fields[i].name,
				     dc_fields[i].offset);
#define X(t, f)	fits = fits && dc_field_fits(&found, #t, #f, dc_bit_##t##_##f());
	DC_BITS(X)
#undef X
	for (i = 0; fits && i < ARRAY_SIZE(dc_fields); i++)
		fits = dc_size_fits(&found, dc_fields[i].type, dc_fields[i].type_size);
#define X(t, f)	fits = fits && dc_size_fits(&found, #t, DC_SIZE(t));
	DC_BITS(X)
#undef X
	dc_forget(&found);
	return fits ? 0 : -ENOEXEC;
}
