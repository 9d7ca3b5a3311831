package anthropic

import "testing"

func TestOnlySkillsWithThePrefixBelongToAnAccount(t *testing.T) {
	t.Parallel()
	for id, shared := range map[string]bool{"pptx": true, "xlsx": true, "skill_01abc": false} {
		if SharedSkill(id) != shared {
			t.Errorf("%s shared: %v", id, !shared)
		}
	}
}

func TestARejectionIsTheWindowsOrTheSummarys(t *testing.T) {
	t.Parallel()
	for status, rejected := range map[string]bool{"rejected": true, "allowed": false, "allowed_warning": false, "": false} {
		w, l := Window{Status: status}, RateLimits{Status: status}
		if w.Rejected() != rejected || l.Rejected() != rejected {
			t.Errorf("%q: window %v, summary %v", status, w.Rejected(), l.Rejected())
		}
	}
}
