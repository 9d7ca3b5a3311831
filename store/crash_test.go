package store

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

// crashPath, when set, makes this test binary the process that gets killed.
const crashPath = "STORE_TEST_CRASH_PATH"

func TestAKilledProcessLosesNothingThatItConfirmed(t *testing.T) {
	t.Parallel()
	if path := os.Getenv(crashPath); path != "" {
		writeUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "accounts.db")
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), crashPath+"="+path)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	confirmed := map[string]bool{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "stored "); ok {
			confirmed[name] = true
		}
		if len(confirmed) == 20 {
			must(t, child.Process.Kill())
		}
	}
	_ = child.Wait() // it was killed

	s := open(t, testOptions(path))
	for _, a := range got(s.Accounts(t.Context()))(t) {
		delete(confirmed, a.Name)
	}
	if len(confirmed) > 0 {
		t.Errorf("lost accounts %v", confirmed)
	}
	rows := got(s.Requests(t.Context(), api.RequestQuery{Limit: api.MaxRequestLimit}))(t)
	if n := rowCounter(t, s); len(rows) < 20 || n != int64(len(rows)) {
		t.Errorf("%d rows are left, %d are counted", len(rows), n)
	}
}

func writeUntilKilled(t *testing.T, path string) {
	s := open(t, testOptions(path))
	for i := 0; ; i++ {
		a := account(fmt.Sprint(i))
		must(t, s.AddAccount(t.Context(), a))
		must(t, s.InsertRows(t.Context(), []Row{answered(fmt.Sprint("r", i), start, a)}))
		fmt.Println("stored", a.Name)
	}
}
