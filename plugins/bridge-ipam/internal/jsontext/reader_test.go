package jsontext

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

type inner struct {
	Texts []string        `json:"texts"`
	Raw   json.RawMessage `json:"raw"`
	Rare  any             `json:"rare"`
}

type outer struct {
	Text  string `json:"text"`
	Flag  bool   `json:"flag"`
	Count int    `json:"count"`
	Inner inner  `json:"inner"`
}

func (o *outer) read(r *Reader) bool {
	return r.Object(
		Member{"text", func(r *Reader) (ok bool) { o.Text, ok = r.Text(); return ok }},
		Member{"flag", func(r *Reader) (ok bool) { o.Flag, ok = r.Bool(); return ok }},
		Member{"count", func(r *Reader) (ok bool) { o.Count, ok = r.Int(); return ok }},
		Member{"inner", func(r *Reader) bool {
			return r.Object(
				Member{"texts", func(r *Reader) bool {
					o.Inner.Texts = []string{}
					return r.Array(func() bool {
						s, ok := r.Text()
						o.Inner.Texts = append(o.Inner.Texts, s)
						return ok
					})
				}},
				Member{"raw", func(r *Reader) (ok bool) { o.Inner.Raw, ok = r.Raw(); return ok }},
				Member{"rare", nil},
			)
		}},
	)
}

// common and other are texts that are read, and that are left to encoding/json.
var (
	common = []string{
		`{}`, ` { } `, `{"text":"a b~"}`, `{"flag":true,"count":-7}`, "{\n\t\"count\" : 0 ,\r\n\"flag\":false}",
		`{"other":{"a":[1,-2,null,true,false,"x",{}]},"text":""}`, `{"inner":{"texts":[],"raw": {"a": [1]} }}`,
		`{"inner":{"texts":["a","b"],"raw":null}}`, `{"count":9223372036854775807}`,
	}
	other = []string{
		``, `{`, `[]`, `{}x`, `{} {}`, `null`, `{"text":null}`, `{"text":7}`, `{"text":"\u0041"}`, `{"text":"é"}`, "{\"text\":\"\n\"}", `{"text":"a`,
		`{"text":"a","text":"b"}`, `{"Text":"a"}`, `{"text":"a",}`, `{,}`, `{"text" "a"}`, `{"count":1.0}`, `{"count":1e3}`, `{"count":1E3}`,
		`{"count":-}`, `{"count":-0}`, `{"count":01}`, `{"count":9223372036854775808}`, `{"count":--1}`, `{"count":1-1}`, `{"count":}`,
		`{"flag":truex}`, `{"flag":tru}`, `{"inner":{"rare":1}}`, `{"inner":{"texts":["a",]}}`, `{"inner":{"texts":[7]}}`, `{"other":1.5}`,
		`{"other":nul}`, `{"other":[1 2]}`, `{"other":{"a":1 "b":2}}`, `{"other":` + nested(40) + `}`,
	}
)

func nested(n int) string {
	return string(bytes.Repeat([]byte("["), n)) + string(bytes.Repeat([]byte("]"), n))
}

func TestReader(t *testing.T) {
	for _, text := range common {
		if !agrees(t, []byte(text)) {
			t.Errorf("%s: left to encoding/json", text)
		}
	}
	for _, text := range other {
		if agrees(t, []byte(text)) {
			t.Errorf("%s: read", text)
		}
	}
}

// agrees compares with encoding/json what was read, if it was.
func agrees(t *testing.T, text []byte) (read bool) {
	t.Helper()
	var got, want outer
	if !Read(text, got.read) {
		return false
	}
	if err := json.Unmarshal(text, &want); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v, %v", text, got, want, err)
	}
	return true
}

// FuzzReader: what is read is what encoding/json reads.
func FuzzReader(f *testing.F) {
	for _, text := range append(common, other...) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { agrees(t, text) })
}
