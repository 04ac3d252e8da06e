// SPDX-License-Identifier: GPL-2.0
/*
 * Loads plug-ins, all, and then has each run scenarios of scenarios.c:
 *
 *	loader SCENARIO[,SCENARIO]... HOW=PLUGIN...
 *
 * HOW: local, global, deep (RTLD_LOCAL, RTLD_GLOBAL, RTLD_LOCAL | RTLD_DEEPBIND)
 *
 * The plug-in "self" is this program's own part, if it has one.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*run_function)(const char *name);

#ifdef WITH_SCENARIOS
int run_scenario(const char *name);
#else
static run_function run_scenario;
#endif

static run_function load(char *what)
{
	static const struct {
		const char *name;
		int flags;
	} hows[] = {
		{ "local=", RTLD_LOCAL },
		{ "global=", RTLD_GLOBAL },
		{ "deep=", RTLD_LOCAL | RTLD_DEEPBIND },
	};
	run_function run = NULL;
	unsigned int number;
	void *plugin;

	if (strcmp(what, "self") == 0)
		return run_scenario;
	for (number = 0; number < sizeof(hows) / sizeof(hows[0]); number++) {
		const size_t length = strlen(hows[number].name);

		if (strncmp(what, hows[number].name, length))
			continue;
		plugin = dlopen(what + length, RTLD_LAZY | hows[number].flags);
		run = plugin ? (run_function)dlsym(plugin, "run_scenario") : NULL;
		if (!run)
			fprintf(stderr, "%s\n", dlerror());
	}
	return run;
}

static int run_all(run_function run, const char *names)
{
	char *copy = strdup(names), *rest = copy, *name;
	int status = 0;

	while (!status && rest && (name = strsep(&rest, ",")))
		status = run(name);
	free(copy);
	return status;
}

int main(int count, char **words)
{
	run_function runs[16];
	int number;

	if (count < 3 || count > 18)
		return 2;
	for (number = 2; number < count; number++) {
		runs[number - 2] = load(words[number]);
		if (!runs[number - 2])
			return 3;
	}
	for (number = 2; number < count; number++) {
		const int status = run_all(runs[number - 2], words[1]);

		if (status)
			return status;
	}
	return 0;
}
