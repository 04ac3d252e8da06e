// SPDX-License-Identifier: GPL-2.0
/*
 * The OpenSSLs of this process, and which of them made an object.
 *
 * A program may have several: its own, and one that a plug-in brings along, under another name and of
 * another release. The loader gives each caller the functions of one of them; as this library stands in
 * the way, it has to find out which. The address that a call came from doesn't tell: a compiler may have
 * made the call a jump, or the program may hand function pointers around. But the object that is handed
 * over does. A context or connection points to its method, which is a constant in the libssl that made
 * it. (Asking the wrong libssl for it reads some other word of the object, which never points there.)
 */
#include <elf.h>
#include <link.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "preload.h"

struct dc_openssl dc_openssls[DC_MOST_OPENSSLS];

/* How many of them are filled in. They are never taken away. */
static unsigned int known;

/* How many objects the loader had loaded, ever, when it was last looked for new ones. */
static unsigned long long seen;

/*
 * What follows this library in the global scope, if anything, by enum dc_replaced: a libssl, or another
 * library that stands in the way, like this one.
 */
static void *following[DC_REPLACED_COUNT];
static bool in_the_way[DC_REPLACED_COUNT];

static const char *const replaced_names[] = {
#define NAME(name)	#name,
	DC_REPLACED(NAME)
#undef NAME
};

/* An object that may be a libssl. */
struct candidate {
	char *path;
	uintptr_t low, high;
};

/* With each libssl comes a libcrypto. */
enum { MOST_CANDIDATES = 2 * DC_MOST_OPENSSLS };

struct candidates {
	struct candidate list[MOST_CANDIDATES];
	unsigned int count;
};

static bool within(const void *pointer, uintptr_t low, uintptr_t high)
{
	return (uintptr_t)pointer >= low && (uintptr_t)pointer < high;
}

/* Does the object define symbols of OpenSSL 3? libssl and libcrypto do, and this library. */
static bool defines_openssl_3(uintptr_t base, uintptr_t low, uintptr_t high, const Elf64_Dyn *dynamic)
{
	const Elf64_Verdef *version = NULL;
	const char *strings = NULL;
	size_t left = 0;

	for (; dynamic->d_tag != DT_NULL; dynamic++) {
		uintptr_t address = dynamic->d_un.d_ptr;

		/* The loader makes some of them, and not always the same, absolute. */
		if (address < low || address >= high)
			address += base;
		switch (dynamic->d_tag) {
		case DT_VERDEF:
			version = (const void *)address;
			break;
		case DT_VERDEFNUM:
			left = dynamic->d_un.d_val;
			break;
		case DT_STRTAB:
			strings = (const void *)address;
			break;
		}
	}
	if (!within(version, low, high) || !within(strings, low, high))
		return false;
	for (; left; left--) {
		const Elf64_Verdaux *name = (const void *)((const char *)version + version->vd_aux);

		if (strcmp(strings + name->vda_name, OPENSSL_3_VERSION) == 0)
			return true;
		version = (const void *)((const char *)version + version->vd_next);
	}
	return false;
}

static bool is_known(uintptr_t low)
{
	const unsigned int count = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
	unsigned int number;

	for (number = 0; number < count; number++) {
		if (dc_openssls[number].low == low)
			return true;
	}
	return false;
}

static int look_at(struct dl_phdr_info *object, size_t size, void *result)
{
	struct candidates *candidates = result;
	const Elf64_Dyn *dynamic = NULL;
	uintptr_t low = UINTPTR_MAX, high = 0;
	struct candidate *found;
	unsigned int number;

	(void)size;
	for (number = 0; number < object->dlpi_phnum; number++) {
		const Elf64_Phdr *part = &object->dlpi_phdr[number];
		const uintptr_t start = object->dlpi_addr + part->p_vaddr;

		if (part->p_type == PT_DYNAMIC)
			dynamic = (const void *)start;
		if (part->p_type != PT_LOAD)
			continue;
		if (start < low)
			low = start;
		if (start + part->p_memsz > high)
			high = start + part->p_memsz;
	}
	if (!dynamic || !object->dlpi_name || !object->dlpi_name[0] ||
	    within(dc_openssls, low, high) || is_known(low) ||
	    !defines_openssl_3(object->dlpi_addr, low, high, dynamic))
		return 0;
	if (candidates->count == MOST_CANDIDATES)
		return 1;
	found = &candidates->list[candidates->count];
	found->path = strdup(object->dlpi_name);
	found->low = low;
	found->high = high;
	candidates->count += !!found->path;
	return 0;
}

/*
 * Fills in what is needed of the libssl that was opened as this handle. False if it is none: a libcrypto,
 * for instance.
 */
static bool fill_in(struct dc_openssl *openssl, void *handle, const struct candidate *from)
{
	unsigned int missing = 0;

	*openssl = (struct dc_openssl){ .low = from->low, .high = from->high };
#define FIND(name)									\
	openssl->name = (typeof(&name))dlvsym(handle, #name, OPENSSL_3_VERSION);	\
	missing += !within((const void *)openssl->name, from->low, from->high);
	DC_LIBSSL_FUNCTIONS(FIND)
#undef FIND
	/* Without these two, nothing is ever its own. */
	if (!within((const void *)openssl->SSL_CTX_get_ssl_method, from->low, from->high) ||
	    !within((const void *)openssl->SSL_get_ssl_method, from->low, from->high))
		return false;
	openssl->SSL_is_quic = (typeof(openssl->SSL_is_quic))dlsym(handle, "SSL_is_quic");
	/*
	 * As libssl's own references are resolved: the global scope comes first. adopt() in tls.c sees
	 * whether it is the right one.
	 */
#define FIND(name)									\
	openssl->name = (typeof(&name))dlvsym(RTLD_DEFAULT, #name, OPENSSL_3_VERSION);	\
	if (!openssl->name)								\
		openssl->name = (typeof(&name))dlvsym(handle, #name, OPENSSL_3_VERSION);\
	missing += !openssl->name;
	DC_LIBCRYPTO_FUNCTIONS(FIND)
#undef FIND
	openssl->keys = missing ? DC_KEYS_NEVER : DC_KEYS_UNTRIED;
	if (missing)
		dc_log("%s lacks %u functions: no keys from it", from->path, missing);
	return true;
}

/* Only to add to the list: no loader's function is called while it is held. Not for ever: see fork(2). */
static bool lock(int *lock)
{
	unsigned int tries;

	for (tries = 0; tries < 100000; tries++) {
		int free = 0;

		if (__atomic_compare_exchange_n(lock, &free, 1, false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return true;
		sched_yield();
	}
	return false;
}

static void add(const struct dc_openssl *openssl)
{
	static int adding;
	unsigned int number;

	if (!lock(&adding))
		return;
	number = known;
	if (!is_known(openssl->low) && number < DC_MOST_OPENSSLS) {
		dc_openssls[number] = *openssl;
		dc_openssls[number].on_info = dc_on_info[number];
		dc_openssls[number].on_bio = dc_on_bio[number];
		__atomic_store_n(&known, number + 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&adding, 0, __ATOMIC_RELEASE);
}

static void examine(const struct candidate *candidate)
{
	void *handle = dlopen(candidate->path, RTLD_LAZY | RTLD_NOLOAD);
	struct dc_openssl openssl;

	if (!handle)
		return;
	/* Its functions and callbacks are called as long as the process lives. */
	if (fill_in(&openssl, handle, candidate) &&
	    dlopen(candidate->path, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE))
		add(&openssl);
	dlclose(handle);
}

static int count_loaded(struct dl_phdr_info *object, size_t size, void *result)
{
	(void)size;
	*(unsigned long long *)result = object->dlpi_adds;
	return 1;
}

/* Where the object begins that this address is in. */
static void *object_at(const void *address)
{
	Dl_info info;

	return address && dladdr(address, &info) ? info.dli_fbase : NULL;
}

/* Sees to it that all OpenSSLs that are loaded now are known. Costs little if there is nothing new. */
static void look(void)
{
	struct candidates candidates = { .count = 0 };
	unsigned long long loaded = 0;
	unsigned int number;
	void *libssl;

	dl_iterate_phdr(count_loaded, &loaded);
	if (loaded == __atomic_load_n(&seen, __ATOMIC_ACQUIRE))
		return;
	/* The loader is locked meanwhile, so it isn't asked from there. */
	dl_iterate_phdr(look_at, &candidates);
	for (number = 0; number < candidates.count; number++) {
		examine(&candidates.list[number]);
		free(candidates.list[number].path);
	}
	libssl = object_at(dlvsym(RTLD_NEXT, "SSL_CTX_get_ssl_method", OPENSSL_3_VERSION));
	for (number = 0; number < DC_REPLACED_COUNT; number++) {
		void *next = dlvsym(RTLD_NEXT, replaced_names[number], OPENSSL_3_VERSION);

		__atomic_store_n(&in_the_way[number], next && object_at(next) != libssl,
				 __ATOMIC_RELAXED);
		__atomic_store_n(&following[number], next, __ATOMIC_RELAXED);
	}
	/* What wasn't found is no error of the program's. */
	dlerror();
	__atomic_store_n(&seen, loaded, __ATOMIC_RELEASE);
}

static struct dc_openssl *owner(const void *method)
{
	const unsigned int count = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
	unsigned int number;

	for (number = 0; number < count; number++) {
		if (within(method, dc_openssls[number].low, dc_openssls[number].high))
			return &dc_openssls[number];
	}
	return NULL;
}

#define OWNER(object, get_method) ({						\
	struct dc_openssl *found = NULL;					\
	unsigned int number;							\
										\
	look();									\
	for (number = 0; !found && (object) &&					\
	     number < __atomic_load_n(&known, __ATOMIC_ACQUIRE); number++) {	\
		struct dc_openssl *one = &dc_openssls[number];			\
										\
		if (owner(one->get_method(object)) == one)			\
			found = one;						\
	}									\
	found;									\
})

struct dc_openssl *dc_openssl_of_context(const SSL_CTX *context)
{
	return OWNER(context, SSL_CTX_get_ssl_method);
}

struct dc_openssl *dc_openssl_of_connection(const SSL *ssl)
{
	return OWNER(ssl, SSL_get_ssl_method);
}

static void *of(const struct dc_openssl *openssl, enum dc_replaced function)
{
	switch (function) {
#define CASE(name)	case DC_##name: return (void *)openssl->name;
	DC_REPLACED(CASE)
#undef CASE
	case DC_REPLACED_COUNT:
		break;
	}
	return NULL;
}

/* What the object at this address, or one that it depends on, has. */
static void *in_scope_of(const void *address, const char *name)
{
	void *found = NULL, *handle;
	struct link_map *map;
	Dl_info info;

	if (!dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP))
		return NULL;
	handle = dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD);
	if (handle) {
		found = dlvsym(handle, name, OPENSSL_3_VERSION);
		dlclose(handle);
	}
	dlerror();
	/* The program's own scope has this library, too. */
	return object_at(found) == object_at(&dc_openssls) ? NULL : found;
}

void *dc_openssl_next(enum dc_replaced function, const struct dc_openssl *openssl,
		      const void *caller)
{
	void *next = __atomic_load_n(&following[function], __ATOMIC_RELAXED);
	const unsigned int count = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
	void *found;

	if (next && __atomic_load_n(&in_the_way[function], __ATOMIC_RELAXED))
		return next;
	if (openssl && of(openssl, function))
		return of(openssl, function);
	/* The loader's own order. */
	if (next)
		return next;
	found = in_scope_of(caller, replaced_names[function]);
	if (found)
		return found;
	return count == 1 ? of(&dc_openssls[0], function) : NULL;
}
