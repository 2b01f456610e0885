// The peers that strongroom's tests talk to: a kube-apiserver over an etcd of its own, and the
// controller manager, each a process of this one binary. All are the real thing, linked in from
// Kubernetes' own modules: nothing is mocked. Started by the harness (tests/src/kube.rs) with
// free ports and a directory; ends when its standard input does, so that nothing is left behind.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	_ "time/tzdata" // CronJobs name time zones, and the machine may have none

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

const usage = "usage: peers etcd DIR CLIENT-PORT PEER-PORT | apiserver FLAGS | controllers FLAGS"

func main() {
	if len(os.Args) < 2 {
		fail(errors.New(usage))
	}
	role := os.Args[1]
	os.Args = append(os.Args[:1], os.Args[2:]...)
	endWithInput()
	switch role {
	case "etcd":
		fail(etcd(os.Args[1:]))
	case "apiserver":
		run(apiserver.NewAPIServerCommand())
	case "controllers":
		run(controllers.NewControllerManagerCommand())
	default:
		fail(errors.New(usage))
	}
}

// run ends the process as the component's own main would.
func run(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

// endWithInput ends this process, gracefully, when its parent is gone: then nobody holds the
// other end of its standard input.
func endWithInput() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
}

// etcd runs a member of its own on loopback until it is told to end. It does not fsync: what a
// test kills, it kills by process, not by power.
func etcd(arguments []string) error {
	if len(arguments) != 3 {
		return errors.New(usage)
	}
	config := embed.NewConfig()
	config.Name = "peer"
	config.Dir = filepath.Join(arguments[0], "etcd")
	config.LogLevel = "warn"
	config.UnsafeNoFsync = true
	client := url.URL{Scheme: "http", Host: "127.0.0.1:" + arguments[1]}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:" + arguments[2]}
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = []url.URL{client}
	config.ListenPeerUrls = []url.URL{peer}
	config.AdvertisePeerUrls = []url.URL{peer}
	config.InitialCluster = config.Name + "=" + peer.String()
	server, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("etcd does not start: %w", err)
	}
	defer server.Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-ended:
		return nil
	case err := <-server.Err():
		return fmt.Errorf("etcd ended: %w", err)
	}
}

func fail(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "peers:", err)
	os.Exit(1)
}
