// SPDX-License-Identifier: Apache-2.0 OR MIT
#include <math.h>
#include <string.h>

#include "calc.h"
#include "table.h"

static double prime(double index)
{
	int n = (int)index;

	return n >= 1 && n <= PRIMES ? primes[n - 1] : 0;
}

static double factorial(double n)
{
	return tgamma(n + 1);
}

static const struct {
	const char *name;
	double (*call)(double);
} functions[] = {
	{ "sqrt", sqrt }, { "sin", sin },   { "cos", cos },	{ "exp", exp },
	{ "ln", log },	  { "prime", prime }, { "fac", factorial },
};

static struct {
	char name[32];
	double value;
} variables[16];

int call_function(const char *name, double argument, double *value)
{
	for (size_t n = 0; n < sizeof(functions) / sizeof(functions[0]); n++)
		if (!strcmp(functions[n].name, name)) {
			*value = functions[n].call(argument);
			return 1;
		}
	return 0;
}

int get_variable(const char *name, double *value)
{
	for (size_t n = 0; n < sizeof(variables) / sizeof(variables[0]); n++)
		if (!strcmp(variables[n].name, name)) {
			*value = variables[n].value;
			return 1;
		}
	return 0;
}

int set_variable(const char *name, double value)
{
	for (size_t n = 0; n < sizeof(variables) / sizeof(variables[0]); n++)
		if (!variables[n].name[0] || !strcmp(variables[n].name, name)) {
			strcpy(variables[n].name, name);
			variables[n].value = value;
			return 1;
		}
	return 0;
}
