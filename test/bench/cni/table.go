package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// samples are the durations of one kind of work by one contender.
type samples []time.Duration

// at is a quantile, by nearest rank.
func (s samples) at(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// table collects what is measured in one section.
type table struct {
	title string
	rows  []row
	notes []string
}

type row struct {
	work, contender string
	samples         samples
	rate            []float64 // instead of samples: bits per second
}

func (t *table) row(work, contender string) *row {
	for i := range t.rows {
		if t.rows[i].work == work && t.rows[i].contender == contender {
			return &t.rows[i]
		}
	}
	t.rows = append(t.rows, row{work: work, contender: contender})
	return &t.rows[len(t.rows)-1]
}

func (t *table) add(work, contender string, d time.Duration) {
	r := t.row(work, contender)
	r.samples = append(r.samples, d)
}

func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// print shows each kind of work with the contenders below each other, and how much better ours is, by the ratio of
// the medians: of their time to ours, or of our throughput to theirs.
func (t *table) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\n%s\n%-34s %-28s %5s %10s %10s  %s\n", t.title, "", "", "n", "p50", "p95", "how much better ours is")
	slices.SortStableFunc(t.rows, func(a, b row) int { return t.first(a.work) - t.first(b.work) })
	last := ""
	for _, r := range t.rows {
		work := r.work
		if work == last {
			work = ""
		}
		last = r.work
		ours := t.row(r.work, ourName)
		if len(r.rate) > 0 {
			rate := median(r.rate)
			_, _ = fmt.Fprintf(w, "%-34s %-28s %5d %7.2f Gb/s %10s  %s\n", work, r.contender, len(r.rate), rate/1e9, "", times(median(ours.rate), rate, r.contender))
			continue
		}
		p50 := r.samples.at(0.5)
		_, _ = fmt.Fprintf(w, "%-34s %-28s %5d %10s %10s  %s\n", work, r.contender, len(r.samples), show(p50), show(r.samples.at(0.95)),
			times(float64(p50), float64(ours.samples.at(0.5)), r.contender))
	}
	for _, n := range t.notes {
		_, _ = fmt.Fprintln(w, n)
	}
}

func (t *table) first(work string) int {
	return slices.IndexFunc(t.rows, func(r row) bool { return r.work == work })
}

// times is a ratio; ours needs none.
func times(over, under float64, contender string) string {
	if contender == ourName || under == 0 {
		return ""
	}
	return fmt.Sprintf("× %.2f", over/under)
}

func show(d time.Duration) string {
	if d < 2*time.Millisecond {
		return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1e3)
	}
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1e3)
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(list))[len(list)/2]
}
