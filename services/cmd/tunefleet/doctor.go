package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
)

// finding is one line of the doctor's.
type finding struct {
	Check string `json:"check"`
	// Status is ok, warn or fail.
	Status string       `json:"status"`
	Detail string       `json:"detail"`
	Fix    string       `json:"fix,omitempty"`
	Code   schemas.Code `json:"code,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check this machine and the servers: reachable, safe, fast enough", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var code schemas.Code
			for _, f := range a.diagnose(cmd.Context()) {
				if f.Status == "fail" && code == "" {
					code = f.Code
				}
				if a.json {
					if err := a.print(f); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintf(a.out, "%-5s %-16s %s\n", f.Status, f.Check, f.Detail)
				if f.Fix != "" {
					fmt.Fprintf(a.out, "      %-16s %s\n", "", f.Fix)
				}
			}
			if code != "" {
				return &silentError{code: schemas.ExitCodes()[code]}
			}
			return nil
		},
	}
}

func (a *app) diagnose(ctx context.Context) []finding {
	out := []finding{{Check: "version", Status: "ok", Detail: version() + ", " + runtime.Version() + ", kernels " + kernels.ABIHash()[:12]}}
	out = append(out, cpuFinding(), cudaFinding(kernels.CUDALibraries(), nvidiaDriver))
	out = append(out, mathFindings()...)
	out = append(out, ncclFindings()...)
	dir, err := a.dir()
	if err == nil {
		out = append(out, diskFinding(dir), xattrFinding(dir))
	}
	if f, down := notRunning(ctx, dir); down {
		return append(out, f)
	}
	c, err := a.backendConfig()
	if err != nil {
		info := schemas.AsErrorInfo(err)
		status := "warn"
		if info.Code != schemas.CodeNotFound {
			status = "fail"
		}
		return append(out, finding{Check: "servers", Status: status, Detail: info.Error(), Code: info.Code})
	}
	tctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	s, err := connect.Open(tctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		info := schemas.AsErrorInfo(err)
		return append(out, finding{Check: "servers", Status: "fail", Detail: info.Message, Fix: info.Hint, Code: info.Code})
	}
	defer s.Close()
	check := func(name, detail, fix string, code schemas.Code, err error) {
		f := finding{Check: name, Status: "ok", Detail: detail}
		if err != nil {
			f.Status, f.Detail, f.Fix, f.Code = "fail", err.Error(), fix, code
		}
		out = append(out, f)
	}
	start := time.Now()
	err = store.Probe(tctx, s.Objects)
	check("object store", fmt.Sprintf("conditional writes are correct under races (%s)", time.Since(start).Round(time.Millisecond)),
		"use a store with If-Match and If-None-Match on PUT: AWS S3, MinIO, versitygw", schemas.CodeStoreUnsafe, err)
	always, err := s.Queue.SyncAlways(tctx)
	if err == nil && !always {
		err = fmt.Errorf("the broker acknowledges writes before they are on disk")
	}
	check("broker", "reachable, syncs every write", "set sync_interval: always in the nats-server's jetstream section", schemas.CodeUnavailable, err)
	check("lease server", "reachable", "check TUNEFLEET_REDIS_URL; training goes on without it, nothing forms", schemas.CodeUnavailable, s.Leases.Check(tctx))
	return out
}

// notRunning tells of a data directory whose embedded servers were started once and are stopped now, as after every train: that is no failure.
// Servers of which only some are away are one, and are looked at as all others.
func notRunning(ctx context.Context, dir string) (f finding, down bool) {
	if _, configured, err := connect.FromEnv(); configured || err != nil {
		return f, false
	}
	r, err := embedded.Load(dir)
	if err != nil {
		return f, false
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	for _, at := range r.Addresses() {
		conn, err := d.DialContext(ctx, "tcp", at)
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return f, false
		}
	}
	return finding{Check: "servers", Status: "warn", Detail: "the embedded ones of " + dir + " are not running; train starts them for as long as it needs them",
		Fix: "to keep them running: tunefleet up --dir " + dir}, true
}

func cpuFinding() finding {
	d, err := kernels.Open(kernels.Options{})
	if err != nil {
		return finding{Check: "cpu", Status: "fail", Detail: err.Error(), Code: schemas.CodeInternal}
	}
	defer func() { _ = d.Close() }()
	return finding{Check: "cpu", Status: "ok", Detail: fmt.Sprintf("%d cores, %s", runtime.NumCPU(), deviceName(d))}
}

func diskFinding(dir string) finding {
	at := existing(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return finding{Check: "disk", Status: "warn", Detail: fmt.Sprintf("cannot read the free space of %s: %v", at, err)}
	}
	free := float64(st.Bavail) * float64(st.Bsize) / (1 << 30)
	f := finding{Check: "disk", Status: "ok", Detail: fmt.Sprintf("%.1f GiB free at %s", free, at)}
	if free < 2 {
		f.Status, f.Fix = "warn", "make room: checkpoints and logs are written there"
	}
	return f
}

// xattrFinding checks what the embedded object store needs of the file system: versitygw keeps ETags in extended attributes.
func xattrFinding(dir string) finding {
	f, err := os.CreateTemp(existing(dir), ".tunefleet-doctor-*")
	if err != nil {
		return finding{Check: "extended attrs", Status: "warn", Detail: fmt.Sprintf("cannot write to %s: %v", existing(dir), err)}
	}
	defer func() { _ = f.Close(); _ = os.Remove(f.Name()) }()
	if err := unix.Fsetxattr(int(f.Fd()), "user.tunefleet", []byte("x"), 0); err != nil {
		return finding{Check: "extended attrs", Status: "fail", Code: schemas.CodeStoreUnsafe, Detail: fmt.Sprintf("%s has none: %v", existing(dir), err),
			Fix: "put --dir on ext4, xfs or btrfs, or use an object store of your own"}
	}
	return finding{Check: "extended attrs", Status: "ok", Detail: "work at " + existing(dir)}
}

// existing is the nearest folder that is there already.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func deviceName(d *kernels.Device) string {
	info, err := d.Info()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s backend, %s, %s", info.Backend, info.Name, info.ISA)
}
