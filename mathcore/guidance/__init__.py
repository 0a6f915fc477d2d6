"""Models that steer other models: classifier-free guidance (section 8.3) and thresholds on the clean prediction (section 9.5.2)."""

from mathcore.guidance.classifier_free import classifier_free, classifier_free_batched
from mathcore.guidance.threshold import clip, dynamic_threshold
