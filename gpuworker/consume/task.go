package consume

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Handler runs one message's work in a rank process: a part of a prep, eval or export stage, or one rank of a gang's generation.
//
// It returns
//   - nil when its work is stored and committed (train: when the final commit stands, or this rank's part of it is stored);
//   - a *schemas.ErrorInfo for bad input (permanent) or failures, found anywhere in the chain;
//   - collective.ErrPeerLost, anywhere in the chain, when another rank was lost: the gang re-forms from the last commit;
//   - CodeInterrupted when it stopped at a step that all ranks agreed on because of a control word, after committing that step;
//   - ctx.Err() when stopped.
type Handler func(ctx context.Context, t *Task) error

// Task is what a handler gets.
type Task struct {
	Message schemas.Message
	Spec    *schemas.RunSpec
	Stage   *schemas.Stage
	Objects store.Objects
	Logger  *slog.Logger
	// Worker names the worker, for records.
	Worker string
	// Dir is a private scratch folder, removed afterwards.
	Dir string
	// Keep is a scratch folder that outlives a generation: the next rank of this seat finds it again, until the worker gives the seat back.
	// Empty when there is none.
	Keep string
	// Gang is set for train only.
	Gang *Gang
	// Report sends an event to the live stream and counts as life of the phase. It never blocks for long and never fails.
	Report func(e schemas.Event)
	// Phase tells the agent what the rank is doing and how far; each phase has its own stall limit. done grows while the phase advances.
	Phase func(name string, done, total int64)
	// Threads is the number of CPU threads this rank may use.
	Threads int
	// Backend is the kernel backend that the rank computes with, as kernels.Options has it; empty is the CPU.
	Backend string
	// Kill ends the rank's process at once and says why, where something in it hangs that cannot be stopped otherwise. It does not return. nil
	// where ranks are no processes of their own.
	Kill func(reason string)
}

// Gang is one generation of a train stage as seen from one rank.
type Gang struct {
	Generation uint64
	Rank       int
	World      int
	Members    []schemas.Member
	// Collective connects the ranks; made by the rank harness before the handler runs, closed after it.
	Collective Collective
	// FormTimeout bounds connecting the ranks, and OpTimeout one exchange between them; 0 is the default of who connects them.
	FormTimeout, OpTimeout time.Duration
	// Head is HEAD as of this generation's forming.
	Head *schemas.Head
	// Control returns the newest control word known to this rank's agent. Every rank puts its own into the loss reduction and all obey the
	// same one (the first by rank that is not empty): a draining host tells its own ranks only.
	Control func() schemas.Control
	// Left is the time until this rank's machine goes, negative when that is over, 0 when nobody said so. nil is as 0.
	Left func() time.Duration
	// Listen opens a port and says where the other members reach it; nil where ranks cannot be reached (ranks as goroutines).
	Listen func(ctx context.Context) (ln net.Listener, address string, err error)
	// Commit is called by rank 0 only, after all ranks stored their parts: it writes the manifest and swaps HEAD. A *schemas.ErrorInfo with
	// CodeFenced means a newer generation exists: stop for good.
	Commit func(ctx context.Context, m *schemas.Manifest) error
}

// Collective is the port that gang members talk through; package gpuworker/collective implements it (local, tcp) and documents it.
// Every call carries the generation; all ranks call in the same order; a lost peer fails every later call with ErrPeerLost.
type Collective interface {
	Rank() int
	World() int
	// AllToAll sends send[r] to rank r and fills recv[r] with what rank r sent (lengths are known to both sides; nil = nothing).
	AllToAll(ctx context.Context, send, recv [][]byte) error
	// AllGather fills recv[r] with rank r's send (lengths known to all).
	AllGather(ctx context.Context, send []byte, recv [][]byte) error
	// Barrier returns when every rank has called it.
	Barrier(ctx context.Context) error
	// Close ends the connections; a blocked call returns.
	Close() error
}
