package admin

// Questions to the person at the terminal, and secrets from a prompt, a file
// or standard input; never from an argument, which other users could see.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/claude-balancer/claude-balancer/secret"
)

// maxInput bounds what is read from a file or standard input, in bytes.
const maxInput = 1 << 20

// isTerminal reports whether a person sits at the other end of in.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// columnsOf is the width of the terminal at the other end of out, else 0.
func columnsOf(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// askSecret asks for a line, unseen if typed at a terminal.
func (e *env) askSecret(ctx context.Context, prompt string) (secret.String, error) {
	e.notes.print(prompt)
	if f, ok := e.in.(*os.File); ok && e.terminal(f) {
		line, err := readHidden(ctx, int(f.Fd()))
		e.notes.print("\n")
		return secret.New(strings.TrimSpace(line)), err
	}
	line, err := readLine(ctx, e.in)
	return secret.New(line), err
}

// confirm asks a question that only "y" and "yes" affirm.
func (e *env) confirm(ctx context.Context, question string) (bool, error) {
	e.notes.print(question + " [y/N] ")
	answer, err := readLine(ctx, e.in)
	answer = strings.ToLower(answer)
	return answer == "y" || answer == "yes", err
}

// secretFile reads a file that holds one secret; "-" is standard input.
func (e *env) secretFile(ctx context.Context, path, prompt string) (secret.String, error) {
	if path == "-" && e.terminal(e.in) {
		return e.askSecret(ctx, prompt)
	}
	content, err := e.file(ctx, path)
	if err != nil {
		return secret.String{}, err
	}
	value := strings.TrimSpace(string(content))
	switch {
	case value == "":
		return secret.String{}, fmt.Errorf("%s is empty", inputName(path))
	case strings.ContainsAny(value, " \t\r\n"):
		return secret.String{}, fmt.Errorf("%s holds more than one word: it must hold the secret alone", inputName(path))
	}
	return secret.New(value), nil
}

// file reads a whole file; "-" is standard input.
func (e *env) file(ctx context.Context, path string) ([]byte, error) {
	return await(ctx, func() ([]byte, error) {
		in := e.in
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			defer func() { _ = f.Close() }()
			in = f
		}
		content, err := io.ReadAll(io.LimitReader(in, maxInput+1))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", inputName(path), err)
		}
		if len(content) > maxInput {
			return nil, fmt.Errorf("%s is larger than 1 MiB", inputName(path))
		}
		return bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")), nil
	})
}

func inputName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

// readHidden reads a line with the terminal's echo off, and puts the terminal
// back when it is interrupted.
func readHidden(ctx context.Context, fd int) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("preparing the terminal: %w", err)
	}
	line, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil {
		_ = term.Restore(fd, before)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return string(line), err
}

// readLine reads up to the end of a line or of the input.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	return await(ctx, func() (string, error) {
		line, err := bufio.NewReader(io.LimitReader(in, maxInput)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return strings.TrimSpace(line), err
	})
}

// await gives a blocking read up when ctx ends: a read of a terminal cannot be
// interrupted otherwise. The reader is left to the end of the process.
func await[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
