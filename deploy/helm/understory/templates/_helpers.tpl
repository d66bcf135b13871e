{{- define "understory.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that the longest suffix of this chart still fits into 63. */}}
{{- define "understory.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "understory.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "understory.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* What selectors have: never changed. */}}
{{- define "understory.selectorLabels" -}}
app.kubernetes.io/name: {{ include "understory.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "understory.labels" -}}
{{ include "understory.selectorLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: understory
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: dict root, component, name, and annotations where it has some. */}}
{{- define "understory.metadata" -}}
name: {{ .name }}
namespace: {{ include "understory.namespace" .root }}
labels:
  {{- include "understory.labels" . | nindent 2 }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* dict root, image, tag: registry, repository, and the digest or the tag. */}}
{{- define "understory.image" -}}
{{- $registry := default .root.Values.global.imageRegistry .image.registry -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry .image.repository }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.tag | toString) -}}
{{- end -}}
{{- end -}}

{{- define "understory.ownImage" -}}
{{- include "understory.image" (dict "root" . "image" .Values.image "tag" (default .Chart.AppVersion .Values.image.tag)) -}}
{{- end -}}

{{- define "understory.imagePullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "understory.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "understory.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* dict root, component, values: where pods go. */}}
{{- define "understory.scheduling" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "understory.selectorLabels" . | nindent 14 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "understory.selectorLabels" . | nindent 8 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment by which a service reaches the object store. Nothing secret is in a command line. */}}
{{- define "understory.objectStoreEnv" -}}
{{- $store := .Values.objectStore -}}
{{- if eq $store.mode "bundled" }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ include "understory.fullname" . }}-object-store, key: accessKeyId } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ include "understory.fullname" . }}-object-store, key: secretAccessKey } }
{{- else }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ $store.external.existingSecret }}, key: {{ $store.external.accessKeyIdKey }} } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ $store.external.existingSecret }}, key: {{ $store.external.secretAccessKeyKey }} } }
{{- end }}
{{- end -}}

{{- define "understory.objectStoreUrl" -}}
{{- $store := .Values.objectStore -}}
{{- if eq $store.mode "bundled" -}}
s3://{{ $store.bundled.bucket }}/understory?endpoint=http://{{ include "understory.fullname" . }}-object-store.{{ include "understory.namespace" . }}.svc:9000
{{- else -}}
{{- $external := $store.external -}}
s3://{{ $external.bucket }}{{ with $external.prefix }}/{{ . }}{{ end }}?region={{ $external.region }}{{ with $external.endpoint }}&endpoint={{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* For those that cannot begin without it: they make the bucket of the bundled store. */}}
{{- define "understory.ownObjectStoreUrl" -}}
{{ include "understory.objectStoreUrl" . }}{{ if eq .Values.objectStore.mode "bundled" }}&create=bucket{{ end }}
{{- end -}}

{{- define "understory.controlPlaneAddress" -}}
{{ include "understory.fullname" . }}-control-plane.{{ include "understory.namespace" . }}.svc:{{ .Values.controlPlane.service.port }}
{{- end -}}

{{/* dict root, variable: the broker's URL as an environment variable, with its password where it has one. */}}
{{- define "understory.brokerEnv" -}}
{{- $broker := .root.Values.broker -}}
{{- $secret := eq $broker.mode "external" | ternary $broker.external.existingSecret "" -}}
{{- if $secret }}
- name: REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: {{ $broker.external.passwordKey }} } }
{{- end }}
- name: {{ .variable }}
  {{- if eq $broker.mode "embedded" }}
  value: {{ .embedded }}
  {{- else if eq $broker.mode "bundled" }}
  value: redis://{{ include "understory.fullname" .root }}-redis.{{ include "understory.namespace" .root }}.svc:6379
  {{- else }}
  value: redis://{{ if $secret }}:$(REDIS_PASSWORD)@{{ end }}{{ $broker.external.host }}:{{ $broker.external.port }}
  {{- end }}
{{- end -}}

{{- define "understory.passwordSecret" -}}
{{- default (printf "%s-postgres" (include "understory.fullname" .)) .Values.compute.password.existingSecret -}}
{{- end -}}

{{- define "understory.tokenSecret" -}}
{{- default (printf "%s-token" (include "understory.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "understory.tlsSecret" -}}
{{- if .Values.tls.enabled -}}
{{- default (printf "%s-tls" (include "understory.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* What every service and compute gets: security, and where telemetry goes. */}}
{{- define "understory.commonEnv" -}}
- name: UNDERSTORY_TOKEN
  valueFrom: { secretKeyRef: { name: {{ include "understory.tokenSecret" . }}, key: {{ .Values.auth.tokenKey }} } }
{{- if .Values.tls.enabled }}
- { name: UNDERSTORY_TLS_CERT, value: /etc/understory/tls/tls.crt }
- { name: UNDERSTORY_TLS_KEY, value: /etc/understory/tls/tls.key }
- { name: UNDERSTORY_TLS_CA, value: /etc/understory/tls/ca.crt }
- { name: UNDERSTORY_TLS_NAME, value: {{ .Values.tls.serverName | quote }} }
{{- end }}
{{- with .Values.telemetry.otlp }}
{{- if .endpoint }}
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }} }
- { name: OTEL_TRACES_SAMPLER_ARG, value: {{ .tracesShare | quote }} }
- { name: OTEL_METRIC_EXPORT_INTERVAL, value: {{ mul 1000 (int .metricsIntervalSeconds) | quote }} }
{{- with .headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: { secretKeyRef: { name: {{ . }}, key: headers } }
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "understory.tlsMount" -}}
{{- if .Values.tls.enabled }}
- { name: tls, mountPath: /etc/understory/tls, readOnly: true }
{{- end }}
{{- end -}}

{{- define "understory.tlsVolume" -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret: { secretName: {{ include "understory.tlsSecret" . }}, defaultMode: 0440 }
{{- end }}
{{- end -}}

{{- define "understory.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-control-plane" (include "understory.fullname" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "understory.validate" -}}
{{- $replicas := int .Values.safekeeper.replicas -}}
{{- if eq (mod $replicas 2) 0 -}}
{{- fail (printf "safekeeper.replicas is %d: it must be 1 (for a trial) or an odd number from 3 on, because an even one survives no more losses than one fewer" $replicas) -}}
{{- end -}}
{{- if and (eq .Values.broker.mode "embedded") (gt (int .Values.controlPlane.replicas) 1) -}}
{{- fail "broker.mode is embedded, which goes with controlPlane.replicas 1: the standby of a control plane has another broker" -}}
{{- end -}}
{{- if eq .Values.objectStore.mode "external" -}}
{{- range $key := list "bucket" "existingSecret" -}}
{{- if not (get $.Values.objectStore.external $key) -}}
{{- fail (printf "objectStore.external.%s is empty: objectStore.mode external needs it" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name is empty: tls.certManager.enabled needs it" -}}
{{- end -}}
{{- if and (eq .Values.broker.mode "external") (not .Values.broker.external.host) -}}
{{- fail "broker.external.host is empty: broker.mode external needs it" -}}
{{- end -}}
{{- range $key := list "podMonitor" "serviceMonitor" -}}
{{- if and (get (get $.Values.metrics $key) "enabled") (not $.Values.metrics.enabled) -}}
{{- fail (printf "metrics.%s.enabled is true and metrics.enabled is not: nothing would be there to collect" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics.podMonitor.enabled and metrics.serviceMonitor.enabled are both true: everything would be collected twice; leave one" -}}
{{- end -}}
{{- end -}}
