package check

import (
	"crypto/md5" //nolint:gosec // the ETag of a single PUT
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// version is one value of HEAD and the write that made it.
type version struct {
	head  *schemas.Head
	write Event
	etag  string
}

// Body is how a written object is kept in an event: JSON as it is, anything else as a string of base64.
func Body(data []byte) json.RawMessage {
	if json.Valid(data) {
		return append(json.RawMessage(nil), data...)
	}
	raw, err := json.Marshal(base64.StdEncoding.EncodeToString(data))
	if err != nil {
		return nil // a string always encodes
	}
	return raw
}

// Bytes undoes Body.
func Bytes(body json.RawMessage) []byte {
	var s string
	if json.Unmarshal(body, &s) == nil {
		if data, err := base64.StdEncoding.DecodeString(s); err == nil {
			return data
		}
	}
	return body
}

func etagOf(data []byte) string {
	sum := md5.Sum(data) //nolint:gosec // the ETag of a single PUT
	return hex.EncodeToString(sum[:])
}

// chain puts the life of one HEAD together, from its first version to the one that is stored at the end: each write names, in its
// condition, the ETag of the version before it. A write that the store answered with success and that is not part of it was overwritten
// unseen.
func (c *checker) chain(key string, writes []Event, final []byte) []version {
	byETag := map[string]version{}
	for _, w := range writes {
		if w.Status != 0 && (w.Status < 200 || w.Status > 299) || w.Told == "error" {
			continue
		}
		data := Bytes(w.Body)
		v := version{write: w, etag: etagOf(data), head: new(schemas.Head)}
		if err := json.Unmarshal(data, v.head); err != nil {
			c.fail("I3", key, w.At, "HEAD was written with what is no HEAD: %v", err)
			continue
		}
		if old, ok := byETag[v.etag]; !ok || old.write.Status == 0 {
			byETag[v.etag] = v
		}
	}
	var out []version
	used := map[string]bool{}
	for at := etagOf(final); ; {
		v, ok := byETag[at]
		if !ok {
			c.fail("I3", key, 0, "HEAD has a version (ETag %s) that nobody was seen to write", at)
			break
		}
		if used[at] {
			c.fail("I3", key, v.write.At, "HEAD came back to an earlier version (ETag %s)", at)
			break
		}
		used[at] = true
		out = append(out, v)
		before, conditional := strings.CutPrefix(v.write.Condition, "etag:")
		if !conditional {
			if v.write.Condition != "absent" {
				c.fail("I3", key, v.write.At, "%s wrote HEAD without a condition", v.write.Proc)
			}
			break
		}
		at = before
	}
	slices.Reverse(out)
	for etag, v := range byETag {
		if !used[etag] && v.write.Status != 0 {
			c.fail("I3", key, v.write.At, "revision %d of %s was acknowledged by the store and then overwritten unseen", v.head.Rev, v.write.Proc)
		}
	}
	return out
}

// transitions judges each swap of HEAD against the one before.
func (c *checker) transitions(r *run) {
	for i := range r.versions {
		c.count("I3")
		next := r.versions[i]
		if i == 0 {
			if next.head.Rev != 1 {
				c.fail("I3", r.name, next.write.At, "the first HEAD has revision %d", next.head.Rev)
			}
			continue
		}
		c.swap(r, r.versions[i-1].head, next)
	}
}

func (c *checker) swap(r *run, prev *schemas.Head, v version) {
	next, at := v.head, v.write.At
	if next.Rev != prev.Rev+1 {
		c.fail("I3", r.name, at, "revision %d follows %d", next.Rev, prev.Rev)
	}
	if prev.State.Terminal() {
		c.fail("I2", r.name, at, "%s swapped HEAD of a run that was %s already (to %s)", v.write.Proc, prev.State, next.State)
	}
	if next.Generation < prev.Generation {
		c.fail("I3", r.name, at, "generation %d follows %d", next.Generation, prev.Generation)
	}
	if len(next.Members) > 0 && !slices.Equal(next.Members, prev.Members) && next.Generation != prev.Generation+1 {
		c.fail("I3", r.name, at, "a gang formed in generation %d, after generation %d: every incarnation needs one of its own", next.Generation, prev.Generation)
	}
	c.ended(r, prev, v)
	c.commit(r, prev, v)
}

// ended judges the records of ended generations: they are appended only, one for each, for a cause that fits the run.
func (c *checker) ended(r *run, prev *schemas.Head, v version) {
	next, at := v.head, v.write.At
	if len(next.Ended) < len(prev.Ended) {
		c.fail("I3", r.name, at, "records of ended generations vanished")
		return
	}
	seen := map[uint64]bool{}
	for i, e := range next.Ended {
		if seen[e.Generation] {
			c.fail("I3", r.name, at, "generation %d ended twice", e.Generation)
		}
		seen[e.Generation] = true
		if i < len(prev.Ended) {
			continue
		}
		c.count("R6")
		wrong := e.Cause == schemas.CauseApplication || e.Cause == schemas.CausePoison
		if wrong && !r.expect.Poison {
			c.fail("R6", r.name, at, "generation %d of a healthy run was recorded as %s (%v): a preemption or a lost host is no failure of the run", e.Generation, e.Cause, e.Error)
		}
	}
}

// commit judges changes of the manifest that HEAD names.
func (c *checker) commit(r *run, prev *schemas.Head, v version) {
	next, at := v.head, v.write.At
	if sameRef(prev.Manifest, next.Manifest) {
		return
	}
	if prev.Stage != next.Stage { // the stage is over: its final commit moved to the stage's record
		if st := next.StageByName(prev.Stage); prev.Manifest != nil && (st == nil || !sameRef(st.Manifest, prev.Manifest)) {
			c.fail("I4", r.name, at, "stage %s ended with another commit than HEAD had", prev.Stage)
		}
		return
	}
	c.count("I4")
	m := next.Manifest
	back := prev.Manifest != nil && (m == nil || m.Step < prev.Manifest.Step)
	if back {
		if next.Generation <= prev.Generation {
			c.fail("I3", r.name, at, "HEAD went back from step %d without a new generation", prev.Manifest.Step)
		}
		if m != nil && !r.named[m.Key] {
			c.fail("I4", r.name, at, "HEAD went back to %s, which it never named", m.Key)
		}
		return
	}
	if m.Generation != prev.Generation || next.Generation != prev.Generation {
		c.fail("I3", r.name, at, "%s committed step %d as generation %d when HEAD had generation %d", v.write.Proc, m.Step, m.Generation, prev.Generation)
	}
	if prev.State != schemas.RunRunning {
		c.fail("I10", r.name, at, "step %d was committed in a run that is %s", m.Step, prev.State)
	}
	if !sameRef(next.Previous, prev.Manifest) {
		c.fail("I4", r.name, at, "the commit of step %d names another predecessor than the newest commit", m.Step)
	}
	if i := slices.IndexFunc(prev.Members, func(w schemas.Member) bool { return w.Rank == 0 }); i >= 0 && m.Generation == prev.Generation && prev.Members[i].Worker != v.write.Proc {
		c.fail("I3", r.name, at, "%s committed for %s, which is rank 0 of generation %d", v.write.Proc, prev.Members[i].Worker, prev.Generation)
	}
	r.named[m.Key] = true
	c.stored(r, m, at)
}

// stored judges that a manifest and all it names were on their way to the store before HEAD named it.
func (c *checker) stored(r *run, m *schemas.ManifestRef, at float64) {
	c.count("I5")
	w, ok := c.first[m.Key]
	if !ok || w.At > at {
		c.fail("I5", r.name, at, "HEAD named manifest %s before it was written", m.Key)
		return
	}
	var manifest schemas.Manifest
	if err := json.Unmarshal(Bytes(w.Body), &manifest); err != nil {
		c.fail("I5", r.name, at, "manifest %s cannot be read: %v", m.Key, err)
		return
	}
	prefix := schemas.RunPrefix(r.tenant, r.id)
	for _, p := range append(slices.Clone(manifest.Parts), manifest.Log) {
		if p.Key == "" {
			continue
		}
		c.count("I11")
		if !strings.HasPrefix(p.Key, prefix) {
			c.fail("I11", r.name, at, "manifest %s names %s of another run", m.Key, p.Key)
		}
		if pw, ok := c.first[p.Key]; !ok || pw.At > w.At {
			c.fail("I5", r.name, at, "manifest %s was written before its part %s", m.Key, p.Key)
		}
	}
}

// outside finds commits that went past HEAD: within one generation each manifest follows the one before, since a gang goes on only after
// HEAD names its last commit.
func (c *checker) outside(r *run) {
	last := map[string]Event{}
	for _, w := range c.manifests[r.name] {
		var m schemas.Manifest
		if json.Unmarshal(Bytes(w.Body), &m) != nil {
			continue
		}
		gen := fmt.Sprintf("%s/%d", m.Stage, m.Generation)
		before, ok := last[gen]
		if ok && before.Key != w.Key && (m.Parent == nil || m.Parent.Key != before.Key) {
			c.fail("I4", r.name, w.At, "%s stored the commit of step %d past HEAD: the same generation had stored %s, and it is not its parent", w.Proc, m.Step, before.Key)
		}
		last[gen] = w
	}
}

func sameRef(a, b *schemas.ManifestRef) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Key == b.Key && a.SHA256 == b.SHA256
}
