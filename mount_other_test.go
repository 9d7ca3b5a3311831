//go:build !linux

package claudebalancer

import "errors"

func mountMemory(string, int) error { return errors.New("only on Linux") }

func remountReadOnly(string) error { return errors.New("only on Linux") }

func unmount(string) error { return errors.New("only on Linux") }
