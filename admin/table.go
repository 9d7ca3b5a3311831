package admin

// Aligned tables of plain text.

import (
	"slices"
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

// fit leaves out columns, the first named first, until the table is no wider
// than that. 0 columns are enough for everything.
func (t *table) fit(columns int, titles ...string) *table {
	for _, title := range titles {
		if columns == 0 || t.width() <= columns {
			break
		}
		i := slices.Index(t.head, title)
		t.head, t.right = slices.Delete(t.head, i, i+1), slices.Delete(t.right, i, i+1)
		for j := range t.rows {
			t.rows[j] = slices.Delete(t.rows[j], i, i+1)
		}
	}
	return t
}

func (t *table) width() int {
	sum := 2 * (len(t.head) - 1)
	for _, w := range t.widths() {
		sum += w
	}
	return sum
}

func (t *table) widths() []int {
	widths := make([]int, len(t.head))
	for _, line := range append([][]string{t.head}, t.rows...) {
		for i, cell := range line {
			widths[i] = max(widths[i], width(cell))
		}
	}
	return widths
}

// String lays the table out, two blanks between columns and none at a line's end.
func (t *table) String() string {
	widths := t.widths()
	var b strings.Builder
	for _, line := range append([][]string{t.head}, t.rows...) {
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
