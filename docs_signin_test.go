package claudebalancer

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestEveryRequirementOfTheGatewayContractHasATest(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, pattern := range []string{"*_test.go", "*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			code.WriteString(readText(t, file))
		}
	}
	named := regexp.MustCompile("`(Test[A-Z]\\w+)`")
	var requirements []string
	for _, row := range docTable(t, "docs/sign-in.md", "## The contract, line by line") {
		requirements = append(requirements, row.word)
		tests := named.FindAllStringSubmatch(row.cells[len(row.cells)-1], -1)
		if len(tests) == 0 {
			t.Errorf("%s has no test", row.word)
		}
		for _, test := range tests {
			if !strings.Contains(code.String(), "func "+test[1]+"(t *testing.T)") {
				t.Errorf("%s: there is no %s", row.word, test[1])
			}
		}
	}
	want := []string{"discovery", "device", "page", "token", "refresh", "revocation", "models", "settings", "telemetry", "errors", "caps", "usage"}
	for from, to := range map[int]int{1: 6, 20: 29} {
		for i := from; i <= to; i++ {
			want = append(want, fmt.Sprint("G", i))
		}
	}
	for i := range 12 {
		want = append(want, fmt.Sprint(i+1))
	}
	sameWords(t, "docs/sign-in.md", requirements, want)
}
