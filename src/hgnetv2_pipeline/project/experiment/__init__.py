"""What a run is in MLflow: headline, lists of images, trainings, registered model."""
