/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef CALC_H
#define CALC_H

enum kind { NUMBER, NAME, PUNCTUATION, END };

struct token {
	enum kind kind;
	double number;
	char text[32];
};

/* lexer.c: the tokens of a line, in order. */
void lexer_begin(const char *line);
struct token lexer_peek(void);
struct token lexer_next(void);

/* parser.c: the value of a line, or an error message. */
const char *parse_line(const char *line, double *value);

/* functions.c: functions and variables by name. */
int call_function(const char *name, double argument, double *value);
int get_variable(const char *name, double *value);
int set_variable(const char *name, double value);

#endif
