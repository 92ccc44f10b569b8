package exchange

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// card is what a rank tells the others of its device.
type card struct {
	Backend string `json:"backend"`
	Machine string `json:"machine"`
	Bus     string `json:"bus"`
	// Version of NCCL, or why there is none.
	Version int    `json:"version"`
	Why     string `json:"why"`
	// Host: the rank wants to exchange through the host.
	Host bool `json:"host"`
}

type cards []card

// cardBytes is what a card travels in; longer reasons are cut.
const (
	cardBytes = 1 << 10
	whyBytes  = 400
)

// bootID tells machines apart, containers of one machine not.
const bootID = "/proc/sys/kernel/random/boot_id"

// introduce tells all ranks of all devices.
func introduce(ctx context.Context, dev *kernels.Device, host Host, cfg Config) (cards, error) {
	info, err := dev.Info()
	if err != nil {
		return nil, err
	}
	mine := card{Backend: info.Backend, Bus: info.Bus, Host: cfg.Host || os.Getenv(HostVariable) == "host"}
	if id, err := os.ReadFile(bootID); err == nil {
		mine.Machine = string(bytes.TrimSpace(id))
	}
	if _, local := host.(sharer); !local && !mine.Host && info.Bus != "" {
		if mine.Version, err = dev.CommVersion(); err != nil {
			var e *kernels.Error
			errors.As(err, &e)
			mine.Why = e.Why[:min(len(e.Why), whyBytes)]
		}
	}
	raw, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	all, err := share(ctx, host, raw, cardBytes)
	if err != nil {
		return nil, err
	}
	out := make(cards, len(all))
	for r, b := range all {
		if err := json.Unmarshal(bytes.TrimRight(b, "\x00"), &out[r]); err != nil {
			return nil, fmt.Errorf("rank %d does not describe its device: %w", r, err)
		}
	}
	return out, nil
}

// share gives every rank what each of them gave, n bytes filled up with zeros.
func share(ctx context.Context, host Host, mine []byte, n int) ([][]byte, error) {
	send := make([]byte, n)
	if copy(send, mine) < len(mine) {
		return nil, fmt.Errorf("%d bytes do not fit into %d", len(mine), n)
	}
	all := make([][]byte, host.World())
	for r := range all {
		all[r] = make([]byte, n)
	}
	return all, host.AllGather(ctx, send, all)
}

// host is why the ranks exchange through the host; empty when they do not.
func (cs cards) host() string {
	for r, c := range cs {
		if c.Host {
			return fmt.Sprintf("rank %d has %s=host", r, HostVariable)
		}
	}
	for r, c := range cs {
		if c.Backend == kernels.CPU {
			return fmt.Sprintf("rank %d computes on a CPU", r)
		}
		if c.Backend != cs[0].Backend {
			return fmt.Sprintf("ranks 0 and %d have different backends, %s and %s", r, cs[0].Backend, c.Backend)
		}
	}
	return ""
}

// apart is why ranks of one process do not copy from each other's memory.
func (cs cards) apart() string {
	for r, c := range cs {
		if c.Bus != cs[0].Bus {
			return fmt.Sprintf("ranks 0 and %d of one process have devices of their own", r)
		}
	}
	return ""
}

// together is why processes cannot use NCCL: it takes no device twice.
func (cs cards) together() string {
	seen := map[string]int{}
	for r, c := range cs {
		if c.Bus == "" {
			return fmt.Sprintf("rank %d has no card", r)
		}
		if other, ok := seen[c.Machine+" "+c.Bus]; ok {
			return fmt.Sprintf("ranks %d and %d share the card %s, which NCCL does not allow", other, r, c.Bus)
		}
		seen[c.Machine+" "+c.Bus] = r
	}
	return ""
}

// series is what two versions of NCCL have to share to understand each other, say 2.28.
func series(version int) string { return fmt.Sprintf("%d.%d", version/10000, version/100%100) }

// withoutNCCL is the error of ranks that have none, or different ones.
func (cs cards) withoutNCCL() error {
	var lacking, versions []string
	for r, c := range cs {
		if c.Version == 0 {
			lacking = append(lacking, fmt.Sprintf("rank %d: %s", r, c.Why))
		}
		versions = append(versions, fmt.Sprintf("rank %d has %s", r, series(c.Version)))
	}
	hint := "set " + HostVariable + "=host to exchange through the host's memory without it, slower; tunefleet doctor shows what a machine has"
	if lacking != nil {
		return schemas.Errorf(schemas.CodeUnsupported, "nccl", "%d ranks with GPUs of their own need NCCL: %s", len(cs), strings.Join(lacking, "; ")).WithHint("%s", hint)
	}
	for _, c := range cs {
		if series(c.Version) != series(cs[0].Version) {
			return schemas.Errorf(schemas.CodeUnsupported, "nccl", "the ranks have different versions of NCCL, which do not understand each other: %s",
				strings.Join(versions, ", ")).WithHint("install the same version everywhere, or %s", hint)
		}
	}
	return nil
}

// ticket is what rank 0 hands out: the id, and what it is for.
const (
	idBytes     = 128
	ticketBytes = 1 + idBytes + 8 + 32 + whyBytes
)

// agreeOnID gives all ranks the id that rank 0 makes. One that is for another run or generation is refused.
func agreeOnID(ctx context.Context, dev *kernels.Device, host Host, cfg Config) (id kernels.CommID, err error) {
	key := sha256.Sum256([]byte(cfg.Run))
	var mine []byte
	if host.Rank() == 0 {
		made, err := dev.NewCommID()
		status, why := byte(1), ""
		if err != nil {
			status, why = 2, err.Error()
		}
		mine = append([]byte{status}, made[:]...)
		mine = binary.BigEndian.AppendUint64(mine, cfg.Generation)
		mine = append(mine, key[:]...)
		mine = append(mine, why[:min(len(why), whyBytes)]...)
	}
	all, err := share(ctx, host, mine, ticketBytes)
	if err != nil {
		return id, err
	}
	t := all[0]
	generation, of := binary.BigEndian.Uint64(t[1+idBytes:]), t[1+idBytes+8:][:32]
	if t[0] != 1 {
		return id, schemas.Errorf(schemas.CodeUnavailable, "nccl", "rank 0 cannot make a communicator: %s", bytes.TrimRight(t[1+idBytes+40:], "\x00"))
	}
	if generation != cfg.Generation || !bytes.Equal(of, key[:]) {
		return id, fmt.Errorf("%w: rank 0 hands out a communicator of generation %d of a run, this is generation %d of %s", collective.ErrMismatch, generation, cfg.Generation, cfg.Run)
	}
	copy(id[:], t[1:])
	return id, nil
}

// agreeOnOutcome returns an error on every rank when one of them has one.
func agreeOnOutcome(ctx context.Context, host Host, mine error) error {
	text := ""
	if mine != nil {
		text = mine.Error()
	}
	all, err := share(ctx, host, []byte(text[:min(len(text), whyBytes)]), whyBytes)
	if err != nil {
		return errors.Join(mine, err)
	}
	if mine != nil {
		return mine
	}
	for r, b := range all {
		if why := bytes.TrimRight(b, "\x00"); len(why) > 0 {
			return fmt.Errorf("%w: rank %d: %s", collective.ErrPeerLost, r, why)
		}
	}
	return nil
}
