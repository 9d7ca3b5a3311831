package admin

// Aligned tables of plain text.

import (
	"strings"
)

// table is rows below a heading. A column whose heading begins with '>' is set
// flush right, as numbers are.
type table struct {
	head  []string
	right []bool
	rows  [][]string
}

func newTable(head ...string) *table {
	t := &table{right: make([]bool, len(head))}
	for i, title := range head {
		title, t.right[i] = strings.CutPrefix(title, ">")
		t.head = append(t.head, title)
	}
	return t
}

// row adds a row; its cells may come from anywhere.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = safe(cell)
	}
	t.rows = append(t.rows, cells)
}

// String lays the table out, two blanks between columns and none at a line's end.
func (t *table) String() string {
	lines := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], width(cell))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(t.layOut(line, widths))
	}
	return b.String()
}

func (t *table) layOut(line []string, widths []int) string {
	var b strings.Builder
	for i, cell := range line {
		if i > 0 {
			b.WriteString("  ")
		}
		blanks := strings.Repeat(" ", widths[i]-width(cell))
		if t.right[i] {
			b.WriteString(blanks + cell)
		} else {
			b.WriteString(cell + blanks)
		}
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}
