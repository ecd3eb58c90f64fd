package netconf

import "math"

// Limit is the bandwidth of one direction, as the reference plugin bandwidth has it. A Rate of 0 is no limit.
type Limit struct {
	Rate  uint64 // bits per second
	Burst uint64 // bits
}

// rawBandwidth stands at the top of the configuration and in runtimeConfig.bandwidth.
type rawBandwidth struct {
	IngressRate  *int64 `json:"ingressRate"`
	IngressBurst *int64 `json:"ingressBurst"`
	EgressRate   *int64 `json:"egressRate"`
	EgressBurst  *int64 `json:"egressBurst"`
}

func (r rawBandwidth) given() bool {
	return r.IngressRate != nil || r.IngressBurst != nil || r.EgressRate != nil || r.EgressBurst != nil
}

// maxBurst is what the kernel's 32 bits of bytes hold, in bits.
const maxBurst = 8 * math.MaxUint32

// bandwidth: static values win over the runtime's, all together.
func (p *parser) bandwidth(c *Config) {
	from, at := p.raw.rawBandwidth, ""
	if !from.given() {
		from, at = p.raw.RuntimeConfig.Bandwidth, "runtimeConfig.bandwidth."
	}
	c.Ingress = p.limit(at+"ingress", from.IngressRate, from.IngressBurst)
	c.Egress = p.limit(at+"egress", from.EgressRate, from.EgressBurst)
}

func (p *parser) limit(key string, rate, burst *int64) Limit {
	r, b := valueOf(rate), valueOf(burst)
	switch {
	case r < 0 || r > 0 && r < 8:
		p.fault("%sRate %d: want bits per second, 0 (no limit) or at least 8", key, r)
	case b < 0 || b > 0 && b < 8 || b > maxBurst:
		p.fault("%sBurst %d: want bits, 0 (with no rate) or 8 to %d", key, b, int64(maxBurst))
	case r > 0 && b == 0:
		p.fault("%sBurst: missing, %sRate %d needs it, in bits", key, key, r)
	case b > 0 && r == 0:
		p.fault("%sRate: missing, %sBurst %d needs it, in bits per second", key, key, b)
	}
	return Limit{Rate: uint64(r), Burst: uint64(b)}
}

// valueOf is 0 for what is not given.
func valueOf[T int | int64](n *T) T {
	if n == nil {
		return 0
	}
	return *n
}
