package bridgeipam_test

import (
	"fmt"
	"testing"

	"github.com/podwright/podwright/pkg/netutil/nettest"
)

// BenchmarkAddDel measures one ADD and one DEL, processes included, beside held attachments.
func BenchmarkAddDel(b *testing.B) {
	for _, held := range []int{0, 10} {
		for _, promise := range []bool{false, true} {
			b.Run(fmt.Sprintf("held=%d/promise=%t", held, promise), func(b *testing.B) { benchAddDel(b, held, promise) })
		}
	}
}

func benchAddDel(b *testing.B, held int, promise bool) {
	n := newNode(b)
	conf := n.conf(nil)
	for i := range held {
		n.add(fmt.Sprintf("held%d", i), nettest.NewNS(b), conf)
	}
	if promise {
		conf = n.conf(map[string]any{"runtimeConfig": map[string]any{"io.podwright.netns-destroyed": true}})
	}
	b.ResetTimer()
	var adds, dels elapsed
	for b.Loop() {
		b.StopTimer()
		pod := nettest.NewNS(b)
		b.StartTimer()
		adds.time(func() { n.add("c", pod, conf) })
		dels.time(func() { n.del("c", conf) })
		b.StopTimer()
		nettest.DeleteNS(b, pod)
		b.StartTimer()
	}
	b.ReportMetric(adds.median(), "ms/ADD")
	b.ReportMetric(dels.median(), "ms/DEL")
}

// BenchmarkHostPorts measures one ADD and one DEL with none, one and many host ports, beside those of others.
func BenchmarkHostPorts(b *testing.B) {
	for _, beside := range []int{0, 1000} {
		for _, own := range []int{0, 1, 100} {
			b.Run(fmt.Sprintf("beside=%d/own=%d", beside, own), func(b *testing.B) { benchHostPorts(b, beside, own) })
		}
	}
}

func benchHostPorts(b *testing.B, beside, own int) {
	n := newNode(b)
	wish := func(from, count int) string {
		list := []mapping{}
		for i := range count {
			list = append(list, mapping{from + i, 80, "tcp", ""})
		}
		return n.with(nil, list...)
	}
	n.add("beside", nettest.NewNS(b), wish(20000, beside))
	conf := wish(10000, own)
	var adds, dels elapsed
	for b.Loop() {
		b.StopTimer()
		pod := nettest.NewNS(b)
		b.StartTimer()
		adds.time(func() { n.add("c", pod, conf) })
		dels.time(func() { n.del("c", conf) })
		b.StopTimer()
		nettest.DeleteNS(b, pod)
		b.StartTimer()
	}
	b.ReportMetric(adds.median(), "ms/ADD")
	b.ReportMetric(dels.median(), "ms/DEL")
}
